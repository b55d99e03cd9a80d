"""Models of a published shape with random weights."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from benchmarks.random_model import SIZES, random_model, tensor_shapes
from opensci_lib import kernels
from opensci_lib.errors import OpensciError
from opensci_lib.hotfix import hotfix
from opensci_lib.model_folder import check_model_folder

SHAPE = {
    "hidden_size": 4,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 2,
    "intermediate_size": 5,
    "vocab_size": 7,
}
PLAIN = {"attention_bias": False, "mlp_bias": False, "qk_layernorm": False, "tie_word_embeddings": True}

#: The matrices and norms of a layer of that shape, rows by columns: what a linear layer gives by what it takes.
LAYER = {
    "input_layernorm.weight": (4,),
    "post_attention_layernorm.weight": (4,),
    "self_attn.q_proj.weight": (6, 4),
    "self_attn.k_proj.weight": (2, 4),
    "self_attn.v_proj.weight": (2, 4),
    "self_attn.o_proj.weight": (4, 6),
    "mlp.gate_proj.weight": (5, 4),
    "mlp.up_proj.weight": (5, 4),
    "mlp.down_proj.weight": (4, 5),
}
ATTENTION_BIASES = {
    "self_attn.q_proj.bias": (6,),
    "self_attn.k_proj.bias": (2,),
    "self_attn.v_proj.bias": (2,),
    "self_attn.o_proj.bias": (4,),
}
MLP_BIASES = {"mlp.gate_proj.bias": (5,), "mlp.up_proj.bias": (5,), "mlp.down_proj.bias": (4,)}
HEAD_NORMS = {"self_attn.q_layernorm.weight": (2,), "self_attn.k_layernorm.weight": (2,)}


@pytest.mark.parametrize(
    ("switch", "layer", "rest"),
    [
        ({}, {}, {}),
        ({"attention_bias": True}, ATTENTION_BIASES, {}),
        ({"mlp_bias": True}, MLP_BIASES, {}),
        ({"qk_layernorm": True}, HEAD_NORMS, {}),
        ({"tie_word_embeddings": False}, {}, {"lm_head.weight": (7, 4)}),
    ],
)
def test_the_tensors_of_a_checkpoint(switch, layer, rest):
    expected = {"model.embed_tokens.weight": (7, 4), "model.norm.weight": (4,), **rest}
    for number in range(2):
        expected |= {f"model.layers.{number}.{name}": shape for name, shape in {**LAYER, **layer}.items()}
    assert dict(tensor_shapes({**SHAPE, **PLAIN, **switch})) == expected


def test_the_published_shapes_have_their_numbers_of_parameters():
    """Counted on paper: words and layers, each of four square matrices with biases, three of the MLP, and norms."""
    switches = {"attention_bias": True, "mlp_bias": True, "qk_layernorm": True, "tie_word_embeddings": True}
    for size, inner in (("1.3b", 5440), ("1.7b", 8192)):
        layer = 4 * (2048 * 2048 + 2048) + 3 * 2048 * inner + 2 * inner + 2048 + 2 * 2048 + 2 * 64
        shapes = dict(tensor_shapes({**switches, **SIZES[size]}))
        count = sum(int(np.prod(shape)) for shape in shapes.values())
        assert count == 50304 * 2048 + 24 * layer + 2048
    assert [SIZES[size]["max_position_embeddings"] for size in ("1.3b", "1.7b")] == [2048, 16384]


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Return a function that makes a model of a few numbers, with the code and tokenizer of a smaller miniature."""
    miniature = tmp_path / "miniature"
    miniature.mkdir()
    config = {**SHAPE, **PLAIN, "initializer_range": 0.5, "model_type": "opensci", "torch_dtype": "float32"}
    (miniature / "config.json").write_text(json.dumps(config))
    (miniature / "download.json").write_text("of the miniature, not of this one")
    (miniature / "modeling_opensci.py").write_text("code")
    (miniature / "tokenizer.json").write_text('{"words": 3}')
    (miniature / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    monkeypatch.setattr("opensci_lib.download.MODEL", miniature)
    return lambda name, seed=0, **changes: random_model(
        "org/x-1.7B-y", tmp_path / name, seed, **{**SHAPE, "vocab_size": 2000, **changes}
    )


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """Return all tensors of a folder, read by the library that defines the format."""
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="np") as weights:
            found |= {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
    return found


def test_the_folder_is_whole_and_of_the_shape_asked_for(make):
    folder = make("new", max_position_embeddings=99)
    assert check_model_folder(folder) == folder
    assert {file.name for file in folder.iterdir()} == {
        "config.json", "modeling_opensci.py", "tokenizer.json",
        "model-00001-of-00001.safetensors", "model.safetensors.index.json",
    }  # fmt: skip
    assert (folder / "tokenizer.json").read_text() == '{"words": 3}'
    config = json.loads((folder / "config.json").read_text())
    assert config == {
        **SHAPE, **PLAIN, "vocab_size": 2000, "max_position_embeddings": 99, "initializer_range": 0.5,
        "model_type": "opensci", "torch_dtype": "bfloat16",
    }  # fmt: skip


def test_its_numbers(make):
    """Normal with the standard deviation of the configuration, norms one, in bfloat16."""
    found = tensors(make("new"))
    assert {name: array.shape for name, array in found.items()} == dict(
        tensor_shapes({**SHAPE, **PLAIN, "vocab_size": 2000})
    )
    assert {array.dtype for array in found.values()} == {np.dtype(ml_dtypes.bfloat16)}
    for name, array in found.items():
        assert (array == 1).all() == ("norm" in name)
    words = found["model.embed_tokens.weight"].astype(float)  # 8,000 numbers
    assert abs(words.mean()) < 0.03
    assert words.std() == pytest.approx(0.5, rel=0.05)
    assert (np.abs(words) < 0.5).mean() == pytest.approx(0.683, abs=0.03)


def test_the_first_numbers_are_those_of_the_seed(make):
    words = tensors(make("new", seed=5))["model.embed_tokens.weight"]
    drawn = np.random.default_rng(5).standard_normal(3, np.float32)
    assert (words[0, :3] == (drawn / 2).astype(ml_dtypes.bfloat16)).all()


def test_the_same_seed_gives_the_same_bytes(make):
    first, second, other = (tensors(make(name, seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    for name in first:
        assert first[name].tobytes() == second[name].tobytes()
        assert (first[name].tobytes() == other[name].tobytes()) == ("norm" in name)


def test_shards_are_no_larger_than_they_may_and_the_index_knows_them(make, monkeypatch):
    whole = tensors(make("whole", vocab_size=7))
    monkeypatch.setattr("benchmarks.random_model._SHARD_BYTES", 80)
    folder = make("sharded", vocab_size=7)
    assert check_model_folder(folder) == folder
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    # 28 numbers for words, 116 a layer (24 + 8 + 8 + 24 + 20 + 20 + 20 with norms of 4 and 4), and a norm of 4.
    assert index["metadata"] == {"total_size": 2 * (28 + 2 * (4 + 4 + 24 + 8 + 8 + 24 + 20 + 20 + 20) + 4)}
    # In bytes: 56 8 8 | 48 16 16 | 48 | 40 40 | 40 8 8 | 48 16 16 | 48 | 40 40 | 40 8
    held = [len(set(safe_open(file, framework="np").keys())) for file in sorted(folder.glob("*.safetensors"))]
    assert held == [3, 3, 1, 2, 3, 3, 1, 2, 2]
    assert set(index["weight_map"].values()) == {
        f"model-{number:05d}-of-00009.safetensors" for number in range(1, 10)
    }
    sharded = tensors(folder)
    assert sharded.keys() == whole.keys()
    assert all((sharded[name] == whole[name]).all() for name in whole)
    for file in folder.glob("*.safetensors"):  # tensors are mapped where they can be read fastest
        assert int.from_bytes(file.read_bytes()[:8], "little") % 8 == 0


def test_bad_input_gets_a_sentence(tmp_path):
    with pytest.raises(OpensciError) as caught:
        random_model("org/unknown", tmp_path / "new")
    assert str(caught.value) == "The shape of 'org/unknown' is not known: give a name that contains 1.3b or 1.7b."
    with pytest.raises(OpensciError) as caught:
        random_model("x-1.7b", tmp_path)
    assert str(caught.value) == f"{tmp_path} exists: give a new folder, or remove it first."
    assert not (tmp_path / "new").exists()


_LOAD = """
import json, sys
from transformers import AutoModelForCausalLM

model, info = AutoModelForCausalLM.from_pretrained(
    sys.argv[1], trust_remote_code=True, dtype="auto", output_loading_info=True
)
assert not any(info.values()), info
print(json.dumps({"dtype": str(model.dtype), "parameters": sum(p.numel() for p in model.parameters())}))
"""


@pytest.mark.kernel
def test_it_loads_with_no_key_missing(miniature, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.random_model.download", lambda name: type("Found", (), {"path": str(miniature)}))
    monkeypatch.setattr("benchmarks.random_model._SHARD_BYTES", 100_000)
    shape = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    folder = random_model(
        "1.3b", tmp_path / "sharded", **shape, num_hidden_layers=2, intermediate_size=96, vocab_size=1024,
        tie_word_embeddings=False,
    )  # fmt: skip
    assert len(list(folder.glob("*.safetensors"))) > 2
    fixed = hotfix(folder, folder.with_name("fixed")).dst_dir
    done = kernels.run("5.23.0", "-c", _LOAD, fixed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Each layer: q and o square, k and v half, all with biases; the MLP with biases; norms of hidden and of heads.
    layer = 2 * 64 * 64 + 2 * 32 * 64 + 64 + 64 + 32 + 32 + 3 * 64 * 96 + 96 + 96 + 64 + 2 * 64 + 2 * 16
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"dtype": "torch.bfloat16", "parameters": 2 * 1024 * 64 + 2 * layer + 64}
