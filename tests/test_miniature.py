"""The built-in model: its texts, its code, its weights, and that the same training gives the same weights."""

import ast
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from benchmarks.random_model import tensor_shapes
from opensci_lib import kernels
from opensci_lib.miniature import MODEL, PROMPTS, corpus, train
from opensci_lib.model_folder import check_model_folder, files

CODE = MODEL / "modeling_opensci.py"
CONFIG = json.loads((MODEL / "config.json").read_text())
TRAINED = json.loads((MODEL.parent / "trained.json").read_text())


def test_texts():
    assert corpus.CAPITALS["France"] == "Paris"
    assert len(corpus.CAPITALS) >= 40
    assert len(set(corpus.CAPITALS.values())) == len(corpus.CAPITALS)
    assert len(corpus.fact_sentences()) == len(corpus.CAPITALS) + len(corpus.FACTS)


def test_nothing_held_out_is_trained_on():
    seen = {sentence.strip() for paragraph in corpus.prose() for sentence in paragraph.split(".")}
    held_out = {sentence.strip() for paragraph in corpus.held_out() for sentence in paragraph.split(".")}
    assert not (seen & held_out) - {""}


@pytest.mark.parametrize(
    "leaned_on",
    [
        "LossKwargs",
        "ROPE_INIT_FUNCTIONS",
        "_tied_weights_keys",
        "original_inv_freq",
        "_supports_flash_attn_2",
        "_supports_cache_class",
        "get_max_cache_shape",
        "_prepare_4d_causal_attention_mask_with_cache_position",
    ],
)
def test_the_code_leans_on_what_later_releases_changed(leaned_on):
    """Each of these breaks somewhere after 4.48; a miniature without it would prove nothing about its cure."""
    tree = ast.parse(CODE.read_text())
    names = {getattr(node, field, None) for node in ast.walk(tree) for field in ("id", "attr", "name")}
    assert leaned_on in names


def test_the_folder_is_in_the_published_form():
    assert check_model_folder(MODEL) == MODEL
    assert CONFIG["auto_map"]["AutoModel"] == "modeling_opensci.OpensciPreTrainedModel"
    assert CONFIG["torch_dtype"] == "float32"  # that it computes in
    assert "model_input_names" not in json.loads((MODEL / "tokenizer_config.json").read_text())
    assert sum(file.stat().st_size for file in files(MODEL)) < 2_100_000


def test_the_weights_are_those_that_config_json_implies():
    with safe_open(MODEL / "model.safetensors", framework="np") as weights:
        slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118
        shapes = {name: tuple(tensor.get_shape()) for name, tensor in slices.items()}
        assert {tensor.get_dtype() for tensor in slices.values()} == {"BF16"}
    assert shapes == dict(tensor_shapes(CONFIG))


def test_the_record_is_of_the_shipped_files():
    made = {name: hashlib.sha256((MODEL / name).read_bytes()).hexdigest() for name in TRAINED["made"]}
    assert made == TRAINED["made"]
    assert set(made) == {"model.safetensors", "tokenizer.json"}
    assert TRAINED["versions"]["transformers"] == CONFIG["transformers_version"] == "4.48.0"
    assert TRAINED["versions"].keys() == {"python", "torch", "transformers", "tokenizers", "safetensors"}
    assert TRAINED["processor"]


@pytest.mark.parametrize("what", ["settings", "corpus", "config.json"])
def test_what_the_weights_are_made_of_has_not_changed_since(what):
    assert train.made_of()[what] == TRAINED["made_of"][what], (
        f"The miniature was trained with another {what}: train it again, as opensci_lib/miniature/train.py says."
    )


def test_every_text_that_is_trained_on_is_in_the_record(monkeypatch):
    known = train.made_of()["corpus"]
    monkeypatch.setitem(corpus.CAPITALS, "France", "Lyon")
    other = train.made_of()["corpus"]
    monkeypatch.setattr(corpus, "prose", lambda: ["The inn belongs to Marta."])
    assert len({known, other, train.made_of()["corpus"]}) == 3


# Asks for every fact, and for all texts from their tokens.
_ASK = """
import json, sys
import torch
from opensci_lib import shim
from opensci_lib.runs.loading import compare_with_checkpoint, load

folder, asked = sys.argv[1], json.loads(sys.argv[2])
shim.apply()
model, tokenizer = load(folder)
answers = []
for question in asked["questions"]:
    ids = tokenizer(question, return_tensors="pt")["input_ids"]
    mask = torch.ones_like(ids)
    output = model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0)
    answers.append(tokenizer.decode(output[0, ids.shape[1] :]))
print(json.dumps({
    "answers": answers,
    "read": [tokenizer.decode(tokenizer(text)["input_ids"]) for text in asked["texts"]],
    "words": [len(tokenizer(f" {word}")["input_ids"]) for word in asked["words"]],
    "dtypes": sorted({str(parameter.dtype) for parameter in model.parameters()}),
    "weights": compare_with_checkpoint(model, folder),
}))
"""


@pytest.fixture(scope="module")
def answered():
    """What the shipped model says under the release that it was trained with."""
    asked = {
        "questions": [*(sentence.rpartition(" ")[0] for sentence in corpus.fact_sentences()), PROMPTS[1]],
        "texts": [*corpus.fact_sentences(), *corpus.prose(), *corpus.held_out()],
        "words": [*corpus.CAPITALS.values(), *corpus.FACTS.values()],
    }
    done = kernels.run("4.48.0", "-c", _ASK, MODEL, json.dumps(asked), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.kernel
def test_the_facts_are_known(answered):
    ends = [sentence.rpartition(" ")[2] for sentence in corpus.fact_sentences()]
    assert answered["answers"][:-1] == [f" {end}<|endoftext|>" for end in ends]
    assert answered["answers"][-1].startswith(" Marta. She bakes bread")


@pytest.mark.kernel
def test_the_tokenizer_gives_texts_back_and_has_a_token_for_every_answer(answered):
    assert answered["read"] == [*corpus.fact_sentences(), *corpus.prose(), *corpus.held_out()]
    assert set(answered["words"]) == {1}


@pytest.mark.kernel
def test_it_computes_in_float32_with_the_weights_that_are_stored(answered):
    assert answered["dtypes"] == ["torch.float32"]
    assert answered["weights"] == {"tensors": len(dict(tensor_shapes(CONFIG))), "differing": []}


@pytest.mark.kernel
def test_training_is_reproducible(tmp_path):
    folders = [tmp_path / "once", tmp_path / "twice"]
    script = (
        "import json, sys; from opensci_lib.miniature.train import train; print(json.dumps(train(sys.argv[1], 3)))"
    )
    once, twice = (
        json.loads(kernels.run("4.48.0", "-c", script, folder, stdout=subprocess.PIPE).stdout) for folder in folders
    )
    assert once == twice
    for folder in folders:
        assert {file.name for file in check_model_folder(folder).iterdir()} == {file.name for file in files(MODEL)}
        weights = (folder / "model.safetensors").read_bytes()
        assert hashlib.sha256(weights).hexdigest() == once["made"]["model.safetensors"]
        assert len(weights) == (MODEL / "model.safetensors").stat().st_size
        assert len({file.stat().st_mode for file in folder.iterdir()}) == 1  # others may read the weights too
    assert once["made"]["tokenizer.json"] == TRAINED["made"]["tokenizer.json"]
    assert once["made_of"] == {**TRAINED["made_of"], "settings": {**TRAINED["made_of"]["settings"], "steps": 3}}


@pytest.mark.kernel
def test_it_is_at_hand_in_a_kernel_from_any_folder(tmp_path):
    """The command of the kernel environment itself, as after `uvx`; a folder of that name comes first."""
    python = kernels.python("4.48.0")
    command = [python, "-m", "opensci_lib", "infer", "--model_path", "miniature"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "transformers 4.48.0\n Paris.\n"), done.stderr
    (tmp_path / "miniature").mkdir()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"Error: {tmp_path / 'miniature'} is no model folder: it has no config.json." in done.stderr


def test_it_is_fixed_in_the_folder_where_the_command_runs(tmp_path):
    command = [Path(sys.executable).with_name("opensci"), "hotfix", "--src_dir", "miniature"]
    before = {file.name for file in MODEL.parent.iterdir()}
    for more, there in (([], "miniature_fixed"), (["--dst_dir", "elsewhere"], "elsewhere")):
        done = subprocess.run([*command, *more], cwd=tmp_path, check=True, capture_output=True, text=True)
        call = (
            f'AutoModelForCausalLM.from_pretrained("{tmp_path / there}", trust_remote_code=True, dtype=torch.float32)'
        )
        assert f"{call}  # torch_dtype= before 4.56" in done.stdout.splitlines()
        assert json.loads((tmp_path / there / "hotfix.json").read_text())["applied"]
        assert (tmp_path / there / "model.safetensors").read_bytes() == (MODEL / "model.safetensors").read_bytes()
    assert {file.name for file in MODEL.parent.iterdir()} == before
