"""The harness on the miniature: its numbers recomputed, and what bad input gets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from opensci_lib import kernels, tasks
from opensci_lib.tasks.__main__ import write

RELEASE = "5.23.0"

_EVALUATE = """
import json, sys
from opensci_lib.errors import OpensciError
from opensci_lib.evaluate import evaluate

for line in json.loads(sys.argv[1]):
    try:
        evaluate(**line)
    except OpensciError as error:
        print(f"Error: {error}")
    else:
        print("done")
"""


@pytest.fixture(scope="module")
def evaluate():
    """Return a function that evaluates in one kernel process and gives its lines: "done" or the error."""
    kernels.build(RELEASE, "evaluation")

    def start(*calls, **environment):
        variables = {**os.environ, "HF_MODULES_CACHE": "", **environment}
        del variables["HF_MODULES_CACHE"]
        done = subprocess.run(
            [kernels.python(RELEASE), "-c", _EVALUATE, json.dumps(calls, default=str)],
            capture_output=True,
            text=True,
            check=False,
            env=variables,
        )
        assert done.returncode == 0, done.stderr
        return [line for line in done.stdout.splitlines() if line == "done" or line.startswith("Error: ")]

    return start


@pytest.fixture(scope="module")
def outcomes(evaluate, variant_folder, tmp_path_factory):
    """Folders of results: all tasks, and some of them again, at another batch size, and after a broken try."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("all", "again", "batch", "broken")}
    call = {"model_path": variant_folder("fixed")}
    lines = evaluate(
        {**call, "output_dir": folders["all"]},
        {**call, "output_dir": folders["again"], "tasks": ["opensci_facts"], "limit": 30},
        {**call, "output_dir": folders["batch"], "tasks": ["opensci_facts"], "batch_size": 3},
        {**call, "output_dir": folders["broken"], "tasks": ["opensci_cloze", "no_such_task"]},
        HF_HUB_OFFLINE="1",
    )
    assert lines[:3] == ["done"] * 3
    assert lines[3].startswith("Error: There is no task 'no_such_task'")
    return folders


def test_the_tasks_data_are_what_the_script_writes(tmp_path):
    write(tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_text() == (Path(tasks.__file__).parent / file.name).read_text()
    assert sum(len(file.read_text().splitlines()) for file in tmp_path.iterdir()) >= 200


def test_items_differ_and_their_answers_are_among_the_choices():
    for row in tasks_rows("facts"):
        assert len(set(row["choices"])) == 4
    for name in ("facts", "cloze", "prose", "recall"):
        lines = [json.dumps(row) for row in tasks_rows(name)]
        assert len(set(lines)) == len(lines)


def tasks_rows(name):
    return [
        json.loads(line) for line in (Path(tasks.__file__).parent / f"opensci_{name}.jsonl").read_text().splitlines()
    ]


_BY_HAND = """
import json, sys
import pandas as pd, torch
from opensci_lib.generate import load

model, tokenizer = load(sys.argv[1])

@torch.inference_mode()
def log_probability(context, continuation):
    before, whole = tokenizer(context)["input_ids"] or [0], tokenizer(context + continuation)["input_ids"]
    whole = whole if context else [0, *whole]
    lines = model(torch.tensor([whole[:-1]])).logits[0].log_softmax(-1)
    return sum(float(lines[i - 1, whole[i]]) for i in range(len(before), len(whole)))

samples = pd.read_parquet(sys.argv[2])
found = []
for row in samples.itertuples():
    context, choices = (row.text, row.choices) if len(row.choices) else ("", [row.text])
    found.append([log_probability(context, choice) for choice in choices])
json.dump(found, open(sys.argv[3], "w"))
"""


def test_the_harness_numbers_follow_from_logits(outcomes, variant_folder, tmp_path):
    """Accuracy exactly; log-likelihoods but for rounding, since the harness pads batches and this does not."""
    samples, output = pd.read_parquet(outcomes["all"] / "samples.parquet"), tmp_path / "found.json"
    arguments = [variant_folder("fixed"), outcomes["all"] / "samples.parquet", output]
    assert kernels.run(RELEASE, "-c", _BY_HAND, *arguments).returncode == 0
    by_hand = json.loads(output.read_text())
    for row, found in zip(samples.itertuples(), by_hand, strict=True):
        np.testing.assert_allclose(row.loglikelihoods, found, rtol=1e-4, atol=1e-4)
    results = json.loads((outcomes["all"] / "eval.json").read_text())["results"]
    facts = samples["task"] == "opensci_facts"
    right = [
        choices[int(np.argmax(found))] == target
        for choices, target, found in zip(
            samples[facts]["choices"], samples[facts]["target"], np.array(by_hand, dtype=object)[facts], strict=True
        )
    ]
    assert results["opensci_facts"]["acc,none"] == np.mean(right)
    words = sum(len(text.split()) for text in samples[samples["task"] == "opensci_prose"]["text"])
    nats = -sum(found[0] for found, its in zip(by_hand, samples["task"] == "opensci_prose", strict=True) if its)
    assert results["opensci_prose"]["word_perplexity,none"] == pytest.approx(np.exp(nats / words), rel=1e-4)


def test_the_model_is_good_enough_to_lose_points(outcomes):
    results = json.loads((outcomes["all"] / "eval.json").read_text())["results"]
    assert results["opensci_facts"]["acc,none"] > 0.9
    assert results["opensci_cloze"]["acc,none"] > 0.8


def test_positions_add_up_to_the_rolling_likelihoods(outcomes):
    samples = pd.read_parquet(outcomes["all"] / "samples.parquet").set_index(["task", "doc_id"])
    positions = pd.read_parquet(outcomes["all"] / "positions.parquet")
    for key, nats in positions.groupby(["task", "doc_id"])["nats"].sum().items():
        assert samples.loc[key, "loglikelihoods"][0] == pytest.approx(-nats, rel=1e-4)


def test_twice_is_the_same_and_limit_takes_the_first(outcomes):
    whole, part = (pd.read_parquet(outcomes[name] / "samples.parquet") for name in ("all", "again"))
    assert len(part) == 30
    assert part["text"].tolist() == whole["text"].tolist()[:30]
    assert part["prediction"].tolist() == whole["prediction"].tolist()[:30]


def test_batch_size_does_not_change_predictions(outcomes):
    whole, other = (pd.read_parquet(outcomes[name] / "samples.parquet") for name in ("all", "batch"))
    whole = whole[whole["task"] == "opensci_facts"]
    assert whole["prediction"].tolist() == other["prediction"].tolist()
    change = np.abs(
        np.concatenate(whole["loglikelihoods"].tolist()) - np.concatenate(other["loglikelihoods"].tolist())
    )
    assert change.max() < 1e-4


def test_finished_tasks_are_kept_and_gone_on_from(outcomes, evaluate, variant_folder):
    folder = outcomes["broken"]
    assert not (folder / "eval.json").exists()
    kept = folder / "evaluation" / "opensci_cloze" / "samples.parquet"
    marked = pd.read_parquet(kept).assign(target="kept")
    marked.to_parquet(kept)
    call = {"model_path": variant_folder("fixed"), "output_dir": folder, "limit": None}
    assert evaluate({**call, "tasks": ["opensci_cloze", "opensci_prose"]}) == ["done"]
    samples = pd.read_parquet(folder / "samples.parquet")
    assert (samples[samples["task"] == "opensci_cloze"]["target"] == "kept").all()
    assert set(samples["task"]) == {"opensci_cloze", "opensci_prose"}
    assert not (folder / "evaluation").exists()


def test_bad_tasks_get_one_sentence(evaluate, variant_folder, tmp_path):
    (tmp_path / "bad.yaml").write_text("task: [unclosed\n")
    (tmp_path / "long.jsonl").write_text(json.dumps({"text": "one two " * 3000}) + "\n")
    long = (Path(tasks.__file__).parent / "opensci_cloze.yaml").read_text()
    long = long.replace("opensci_cloze", "long").replace("' ' + last_word", "' end'")
    (tmp_path / "long.yaml").write_text(long)
    call = {"model_path": variant_folder("fixed"), "output_dir": tmp_path}
    lines = evaluate(
        *({**call, "tasks": [name]} for name in (tmp_path / "bad.yaml", tmp_path / "long.yaml", "copa")),
        HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
        HF_HOME=str(tmp_path / "home"),
    )
    for line, words in zip(
        lines, ["is not valid YAML", "longer than the model's context of 2048", "can't be had"], strict=True
    ):
        assert line.startswith("Error: ")
        assert words in line
    assert "opensci download --tasks copa" in lines[2]


_SCARCE = """
import sys
from lm_eval.models.huggingface import HFLM
from opensci_lib.evaluate import evaluate

whole = HFLM._loglikelihood_tokens

def scarce(self, requests, disable_tqdm=False, override_bs=None):
    if override_bs > 2:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
    return whole(self, requests, disable_tqdm=disable_tqdm, override_bs=override_bs)

HFLM._loglikelihood_tokens = scarce
evaluate(sys.argv[1], sys.argv[2], tasks=["opensci_facts"], limit=6, batch_size=8)
"""


def test_a_batch_too_large_for_memory_is_halved(outcomes, variant_folder, tmp_path):
    arguments = ["-c", _SCARCE, variant_folder("fixed"), tmp_path]
    done = kernels.run(RELEASE, *arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if "Memory does not suffice" in line]
    assert [line.split()[-1] for line in said] == ["4.", "2."]
    whole, part = (pd.read_parquet(folder / "samples.parquet") for folder in (outcomes["all"], tmp_path))
    assert part["prediction"].tolist() == whole["prediction"].tolist()[:6]


def test_downloading_data_of_an_unknown_task_gets_a_sentence():
    command = [Path(sys.executable).with_name("opensci"), "download", "--tasks", "no_such_task"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: There is no task 'no_such_task'")
    assert "Traceback" not in done.stderr
