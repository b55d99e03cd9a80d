"""Models of a published shape with random weights."""

import json

import pytest

from opensci_lib import kernels
from opensci_lib.errors import OpensciError
from opensci_lib.hotfix import hotfix
from opensci_lib.model_folder import check_model_folder
from opensci_lib.random_model import SIZES, random_model, tensor_shapes

_TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
_TINY |= {"intermediate_size": 96, "vocab_size": 1024}

_LOAD = """
import json, sys
from transformers import AutoModelForCausalLM

model, info = AutoModelForCausalLM.from_pretrained(
    sys.argv[1], trust_remote_code=True, dtype="auto", output_loading_info=True
)
assert not any(info.values()), info
print(json.dumps({"dtype": str(model.dtype), "parameters": sum(p.numel() for p in model.parameters())}))
"""


@pytest.fixture
def tiny(miniature, tmp_path, monkeypatch):
    """Return a function that makes a model of a few layers, with the session's miniature for code and tokenizer."""
    monkeypatch.setattr("opensci_lib.random_model.download", lambda name: type("Found", (), {"path": str(miniature)}))
    return lambda name, **changes: random_model("org/x-1.7B-y", tmp_path / name, **{**_TINY, **changes})


def test_the_published_shape_has_its_number_of_parameters():
    for size, billions in (("1.3b", 1.3), ("1.7b", 1.7)):
        config = {"attention_bias": True, "mlp_bias": True, "qk_layernorm": True, "tie_word_embeddings": True}
        shapes = dict(tensor_shapes({**config, **SIZES[size]}))
        count = sum(shape[0] * (shape[1] if len(shape) == 2 else 1) for shape in shapes.values())
        assert count == pytest.approx(billions * 1e9, rel=0.02)


def test_it_loads_with_no_key_missing(tiny, monkeypatch):
    monkeypatch.setattr("opensci_lib.random_model._SHARD_BYTES", 100_000)
    folder = tiny("sharded", tie_word_embeddings=False)
    assert len(list(folder.glob("*.safetensors"))) > 2
    check_model_folder(folder)
    fixed = hotfix(folder, folder.with_name("fixed")).dst_dir
    done = kernels.run("5.23.0", "-c", _LOAD, fixed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    config = json.loads((folder / "config.json").read_text())
    sizes = [shape[0] * (shape[1] if len(shape) == 2 else 1) for _, shape in tensor_shapes(config)]
    assert found == {"dtype": "torch.bfloat16", "parameters": sum(sizes)}


def test_the_same_seed_gives_the_same_bytes(tiny):
    first, second, other = tiny("a"), tiny("b"), tiny("c", seed=1)
    [name] = [file.name for file in first.glob("*.safetensors")]
    assert (first / name).read_bytes() == (second / name).read_bytes() != (other / name).read_bytes()


def test_bad_input_gets_a_sentence(tmp_path):
    with pytest.raises(OpensciError, match="give a name that contains"):
        random_model("org/unknown", tmp_path / "new")
    with pytest.raises(OpensciError, match="exists: give a new folder"):
        random_model("x-1.7b", tmp_path)
    assert not (tmp_path / "new").exists()
