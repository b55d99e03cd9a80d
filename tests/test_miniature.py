"""The built-in model: its texts, what its code leans on, and that the same training gives the same weights."""

import ast
import json
from pathlib import Path

import pytest

from opensci_lib import kernels, miniature
from opensci_lib.miniature import corpus

CODE = Path(miniature.__file__).parent / "modeling_opensci.py"


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


def test_the_folder_is_in_the_published_form(miniature):
    config = json.loads((miniature / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_opensci.OpensciPreTrainedModel"
    assert "model_input_names" not in json.loads((miniature / "tokenizer_config.json").read_text())
    assert (miniature / "modeling_opensci.py").read_bytes() == CODE.read_bytes()
    weights = (miniature / "model.safetensors").stat().st_size
    assert 0.8e6 < weights / 4 < 1.2e6  # parameters in float32


@pytest.mark.kernel
def test_training_is_reproducible(tmp_path):
    folders = [tmp_path / "once", tmp_path / "twice"]
    train = "import sys; from opensci_lib.miniature.train import train; train(sys.argv[1], steps=3)"
    for folder in folders:
        assert kernels.run("4.48.0", "-c", train, folder).returncode == 0
    once, twice = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert once == twice
