"""Prompts, records and loading, by value: in the driver, and in one kernel process on a model folder made by hand."""

import json
import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from opensci_lib import kernels
from opensci_lib.errors import OpensciError
from opensci_lib.runs.capture import Capture
from opensci_lib.runs.loading import load
from opensci_lib.runs.prompts import check_length, read_prompt
from opensci_lib.runs.record import Generation, Laps, peak_memory, top_tokens
from tests import tiny

RELEASE = "5.23.0"


# Prompts


def test_a_prompt_is_itself_or_the_text_of_a_file(tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_bytes("Grüße\nzwei ".encode())
    assert read_prompt(str(file)) == "Grüße\nzwei "
    assert read_prompt("The capital of France is") == "The capital of France is"
    assert read_prompt("") == ""


def test_a_file_that_is_not_there_gets_a_sentence(tmp_path):
    with pytest.raises(OpensciError) as refused:
        read_prompt(f"{tmp_path}/no.txt")
    assert refused.value.message == (
        f"There is no file {tmp_path}/no.txt: give its path, or a prompt that does not end in .txt."
    )


@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_prompt_that_the_model_takes(count):
    check_length("a", count, limit=9)


@pytest.mark.parametrize("count", [0, 10])
def test_a_prompt_too_long_or_empty_is_refused(count):
    with pytest.raises(OpensciError) as refused:
        check_length("0123456789" * 5, count, limit=9)
    assert refused.value.message == (
        f"The prompt '0123456789012345678901234567890123456789' has {count} tokens and the model takes 1 to 9: "
        "give another prompt."
    )


# What is recorded


class Letters:
    """A tokenizer whose tokens are letters."""

    def decode(self, ids):
        return "".join("abcdefg"[i] for i in ids)


def test_top_tokens_are_the_largest_logits_best_first():
    logits = np.array([0.5, -9.0, 2.0, 1.0, 2.0, -0.5, 0.25], dtype=np.float32)
    assert top_tokens(logits, Letters()) == [
        {"token": "c", "logit": 2.0},
        {"token": "e", "logit": 2.0},
        {"token": "d", "logit": 1.0},
        {"token": "a", "logit": 0.5},
        {"token": "g", "logit": 0.25},
    ]
    assert top_tokens(logits, Letters(), count=1) == [{"token": "c", "logit": 2.0}]
    assert [entry["token"] for entry in top_tokens(-logits, Letters(), count=2)] == ["b", "f"]


def test_of_equal_logits_the_smaller_ids_come_first():
    class Numbers:
        def decode(self, ids):
            return str(ids[0])

    logits = np.tile(np.array([0, 1], np.float32), 500)  # enough for a sort that is not stable to show it
    assert [entry["token"] for entry in top_tokens(logits, Numbers())] == ["1", "3", "5", "7", "9"]


def test_top_logits_are_exact():
    logits = np.array([0.1, 3.14159, 1e-3]).astype(ml_dtypes.bfloat16)
    # bfloat16 keeps eight bits: 3.14159 becomes 201/64, 0.1 becomes 205/2048
    assert [entry["logit"] for entry in top_tokens(logits, Letters(), 2)] == [201 / 64, 205 / 2048]
    assert top_tokens(np.array([0.1]), Letters()) == [{"token": "a", "logit": 0.1}]
    assert type(top_tokens(logits, Letters())[0]["logit"]) is float


def test_laps_follow_one_another():
    moments = iter([100.0, 100.5, 103.50049, 103.6])
    laps = Laps(clock=lambda: next(moments))
    for phase in ("import", "load", "generate"):
        laps.end(phase)
    assert laps.seconds == {"import": 0.5, "load": 3.0, "generate": 0.1}
    assert list(laps.peak_memory_bytes) == ["start", "import", "load", "generate"]


def test_a_run_does_not_count_the_memory_of_the_one_before():
    """Where the system can forget it, as Linux can; elsewhere the record says that it is the process's."""
    first = Laps()
    held = bytearray(b"x") * 300_000_000
    first.end("load")
    del held
    second = Laps()
    freed = first.peak_memory_bytes["load"] - second.peak_memory_bytes["start"]
    assert second.peak_memory_of == ("run" if freed > 250_000_000 else "process")


def test_peak_memory_is_in_bytes_and_never_falls():
    laps = Laps()
    np.ones(30_000_000)  # 240 MB, at once given back
    laps.end("large")
    laps.end("small")
    start, large, small = laps.peak_memory_bytes.values()
    assert 240_000_000 < large <= small <= peak_memory()
    assert start <= large
    assert peak_memory() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def generation(**changes):
    fields = {
        "prompts": ["a", "ü"],
        "completions": [" b", " c"],
        "tokens": [["a"], ["ü"]],
        "top_tokens": [[{"token": "b", "logit": 1.5}], []],
        "settings": {"dtype": "float32"},
        "versions": {"transformers": "5.23.0"},
        "machine": {"cores": 2},
        "seconds": {"load": 0.25},
        "peak_memory_bytes": {"load": 1024},
        "weights": {"tensors": 2, "differing": ["x"]},
    }
    return Generation(**{**fields, **changes})


def test_a_record_is_saved_whole(tmp_path):
    generation().save(tmp_path / "run.json", variant="fixed", model="org/name", seconds="not these")
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8")) == {
        "variant": "fixed",
        "model": "org/name",
        "prompts": ["a", "ü"],
        "completions": [" b", " c"],
        "tokens": [["a"], ["ü"]],
        "top_tokens": [[{"token": "b", "logit": 1.5}], []],
        "settings": {"dtype": "float32"},
        "versions": {"transformers": "5.23.0"},
        "machine": {"cores": 2},
        "seconds": {"load": 0.25},
        "peak_memory_bytes": {"load": 1024},
        "weights": {"tensors": 2, "differing": ["x"]},
    }
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_a_record_that_can_not_be_written_leaves_the_old_one(tmp_path):
    generation().save(str(tmp_path / "run.json"))
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(TypeError):
        generation(machine={"cores": object()}).save(tmp_path / "run.json")
    assert (tmp_path / "run.json").read_bytes() == before


# Loading, and all of it together


def test_processes_that_cannot_share_the_heads_are_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    folder = tiny.write(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_attention_heads": 6, "num_key_value_heads": 3}))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(OpensciError) as refused:
        load(folder, tp_plan="auto")
    assert refused.value.message == (
        "2 processes can't share 6 heads and 3 key-value heads, as each holds whole ones: take one of 1, 3."
    )
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ImportError, match="torch"):  # of which there is none here: it would be loaded
        load(folder, tp_plan="auto")


def test_an_unknown_dtype_gets_a_sentence(tmp_path):
    with pytest.raises(OpensciError) as refused:
        load(tiny.write(tmp_path / "tiny"), dtype="int8")
    assert refused.value.message == "Unknown dtype 'int8': choose one of auto, float32, bfloat16, float16."


_GENERATE = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from torch import nn
from opensci_lib.errors import OpensciError
from opensci_lib.generate import generate
from opensci_lib.runs.loading import check_release, compare_with_checkpoint, dtype_argument, load

out = Path(sys.argv[1])
plain, found = out / "tiny", {}

def said(function, *arguments, **options):
    try:
        function(*arguments, **options)
    except OpensciError as error:
        return error.message
    except Exception as error:
        return f"{type(error).__name__}: {error}"

# Runs
(out / "prompt.txt").write_text("f g <end>")
first = generate(
    plain, ["a b", f"{out}/prompt.txt"], max_new_tokens=3, device="cpu", capture_path=out / "capture.safetensors"
)
first.save(out / "first.json")
generate(
    plain, ["e"], max_new_tokens=0, dtype="bfloat16", attn_implementation="eager", prefill_chunk_size=7
).save(out / "second.json")
generate(
    plain, ["a b", "f g <end>"], 1, capture_path=out / "compared.safetensors", reference=out / "capture.safetensors"
)
found["ends"] = generate(plain, ["e f"], max_new_tokens=5).completions
found["long"] = said(generate, plain, ["a", "b " * 3001])
found["empty"] = said(generate, plain, ["a", ""])

# Loading
for dtype in ("auto", "float32", "bfloat16", "float16"):
    model, tokenizer = load(plain, dtype=dtype)
    found[dtype] = [str(model.dtype), model.training, tokenizer("c d")["input_ids"]]
found["bfloat16 in config.json"] = str(load(out / "bfloat16")[0].dtype)
found["attention"] = [
    load(plain, **options)[0].config._attn_implementation for options in ({}, {"attn_implementation": "eager"})
]
for name in ("full_device", "full_memory", "other_error", "broken_code"):
    found[name] = said(load, out / name, device="cpu")
found["device"] = said(load, plain, device="cuda:99")
found["no folder"] = said(load, out / "nothing")
found["release"] = [said(check_release, release) for release in (None, "5.23.0", "5.2.0")]
found["dtype_argument"] = dtype_argument()

# Weights
class Module(nn.Module):
    def __init__(self, **tensors):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

nan = float("nan")
shards = out / "shards"
shards.mkdir()
save_file({"one": torch.tensor([0.0, 1.0, nan, 3e-3])}, shards / "model-1.safetensors")
save_file({"two": torch.tensor([[5.0, 6.0]]), "count": torch.tensor(7)}, shards / "model-2.safetensors")
right = {"one": torch.tensor([0.0, 1.0, nan, 3e-3]), "two": torch.tensor([[5.0, 6.0]]), "count": torch.tensor(7)}

def weights(**changes):
    tensors = {**right, **changes}
    module = Module(**{name: tensor for name, tensor in tensors.items() if tensor is not None})
    return compare_with_checkpoint(module, shards)

above = torch.tensor([0.0, 1.0, nan, 3e-3])
above[1] = torch.nextafter(above[1], torch.tensor(2.0))
other_nan = right["one"].view(torch.int32).clone()
other_nan[2] += 1
transposed = torch.tensor([[5.0], [6.0]]).T
found["weights"] = {
    "right": weights(),
    "in bfloat16": weights(one=right["one"].bfloat16(), two=right["two"].bfloat16()),
    "as strided": weights(two=transposed),
    "more in the model": weights(more=torch.tensor([1.0])),
    "a bit more": weights(one=above),
    "negative zero": weights(one=torch.tensor([-0.0, 1.0, nan, 3e-3])),
    "another NaN": weights(one=other_nan.view(torch.float32)),
    "a number for NaN": weights(one=torch.tensor([0.0, 1.0, 2.0, 3e-3])),
    "missing": weights(two=None),
    "all missing": weights(one=None, two=None, count=None),
    "another shape": weights(two=torch.tensor([[[5.0, 6.0]]])),
    "rounded otherwise": weights(one=torch.tensor([0.0, 1.0, nan, 2.9e-3]).bfloat16()),
    "integers": weights(count=torch.tensor(8)),
}
json.dump(found, open(out / "found.json", "w"))
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The folder of what one kernel process wrote and found."""
    folder = tmp_path_factory.mktemp("generate")
    tiny.write(folder / "tiny")
    tiny.write(folder / "bfloat16", torch_dtype="bfloat16")
    tiny.write(folder / "full_device", complaint_of_device="\n  CUDA out of memory. Tried to allocate 2 GiB.\nmore")
    tiny.write(folder / "full_memory", complaint_of_loading="DefaultCPUAllocator: can't allocate memory: 2 bytes.")
    tiny.write(folder / "other_error", complaint_of_loading="\nsize mismatch\nand so on")
    code = tiny.write(folder / "broken_code") / "modeling_tiny.py"
    code.write_text(code.read_text() + "\nfrom transformers.utils import NoSuchName\n")
    done = kernels.run(RELEASE, "-c", _GENERATE, folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def found(out):
    return json.loads((out / "found.json").read_text())


@pytest.mark.kernel
def test_a_run_is_recorded_by_value(out):
    record = json.loads((out / "first.json").read_text())
    assert record["prompts"] == ["a b", "f g <end>"]
    assert record["completions"] == ["c d e", "a b c"]
    assert record["tokens"] == [["a", "b"], ["f", "g", "<end>"]]
    assert [tops[0] for tops in record["top_tokens"]] == [{"token": "c", "logit": 3}, {"token": "a", "logit": 3}]
    assert [[entry["logit"] for entry in tops] for tops in record["top_tokens"]] == [[3, 0, 0, 0, 0]] * 2
    assert record["settings"] == {
        "model_path": str(out / "tiny"),
        "max_new_tokens": 3,
        "dtype": "float32",
        "device": "cpu",
        "attn_implementation": "sdpa",
        "prefill_chunk_size": None,
    }
    assert record["weights"] == {"tensors": 2, "differing": []}
    packages = ["transformers", "torch", "tokenizers", "safetensors", "accelerate", "numpy", "opensci-lib"]
    assert list(record["versions"]) == ["python", *packages]
    locked = dict(
        line.split(";")[0].strip().split("==")
        for line in (Path(__file__).parents[1] / f"environments/transformers-{RELEASE}.txt").read_text().splitlines()
        if "==" in line
    )
    for name in packages[:-1]:
        assert record["versions"][name].split("+")[0] == locked[name].split("+")[0]
    phases = ["import", "load", "capture", "generate", "compare_weights"]
    assert list(record["seconds"]) == phases
    assert list(record["peak_memory_bytes"]) == ["start", *phases]
    peaks = list(record["peak_memory_bytes"].values())
    assert peaks == sorted(peaks)
    assert set(record["machine"]) == {"platform", "processor", "cores", "torch_threads", "peak_memory_of"}
    assert record["machine"]["cores"] == os.cpu_count()


@pytest.mark.kernel
def test_a_run_is_captured(out):
    capture = Capture(out / "capture.safetensors")
    assert capture.prompts == ["a b", "f g <end>"]
    assert capture["0.token_ids"].tolist() == [1, 2]
    assert capture["1.token_ids"].tolist() == [6, 7, 0]
    assert capture["1.logits"].tolist() == (tiny.LOGIT * np.eye(8)[[7, 0, 1]]).tolist()
    np.testing.assert_allclose(capture["1.surprisal"], [-tiny.RIGHT] * 2, rtol=1e-12)
    compared = Capture(out / "compared.safetensors")
    assert compared.reference == capture.digest
    assert compared["1.bitwise_equal"].tolist() == [True] * 3


@pytest.mark.kernel
def test_settings_reach_the_model(out):
    record = json.loads((out / "second.json").read_text())
    assert record["completions"] == [""]
    assert record["top_tokens"] == []
    assert "capture" not in record["seconds"]
    assert record["settings"]["dtype"] == "bfloat16"
    assert record["settings"]["attn_implementation"] == "eager"
    assert record["settings"]["prefill_chunk_size"] == 7
    assert record["settings"]["max_new_tokens"] == 0


@pytest.mark.kernel
def test_a_completion_stops_before_the_end(found):
    assert found["ends"] == ["g"]


@pytest.mark.kernel
def test_prompts_that_the_model_can_not_take_are_refused(found):
    shown = ("b " * 20)[:40]
    assert found["long"] == (
        f"The prompt {shown!r} has 3001 tokens and the model takes 1 to 3000: give another prompt."
    )
    assert found["empty"] == "The prompt '' has 0 tokens and the model takes 1 to 3000: give another prompt."


@pytest.mark.kernel
def test_a_folder_is_loaded_in_the_dtype_asked_for(found):
    for dtype in ("float32", "bfloat16", "float16"):
        assert found[dtype] == [f"torch.{dtype}", False, [3, 4]]
    assert found["auto"] == found["float32"]
    assert found["bfloat16 in config.json"] == "torch.bfloat16"
    assert found["attention"] == ["sdpa", "eager"]
    assert found["dtype_argument"] == "dtype"


@pytest.mark.kernel
def test_only_the_folders_own_errors_are_blamed_on_it(found, out):
    cure = "run `opensci hotfix --src_dir {0}` and load the fixed folder."
    assert found["other_error"] == (
        f"{out}/other_error does not load on transformers {RELEASE} (RuntimeError: size mismatch): "
        + cure.format(out / "other_error")
    )
    assert found["broken_code"].startswith(
        f"{out}/broken_code does not load on transformers {RELEASE} (ImportError: cannot import name 'NoSuchName'"
    )
    assert found["broken_code"].endswith(cure.format(out / "broken_code"))
    assert found["full_memory"] == (
        f"Memory does not suffice to load {out}/full_memory: use a machine that has more."
    )
    assert found["full_device"] == (
        "The model can't be put on cpu (CUDA out of memory. Tried to allocate 2 GiB.): "
        "choose another device, or a smaller dtype."
    )
    assert found["device"].startswith("The model can't be put on cuda:99 (")
    assert found["device"].endswith("): choose another device, or a smaller dtype.")
    assert found["no folder"] == f"{out}/nothing is not a folder: give the folder of a model."


@pytest.mark.kernel
def test_another_release_than_asked_for_is_refused(found):
    assert found["release"] == [
        None,
        None,
        "This kernel holds transformers 5.23.0, not 5.2.0: choose the kernel transformers-5.2.0, "
        "or set tf_version to None.",
    ]


@pytest.mark.kernel
@pytest.mark.parametrize("case", ["right", "in bfloat16", "as strided", "more in the model"])
def test_weights_as_in_the_checkpoint(found, case):
    assert found["weights"][case] == {"tensors": 3, "differing": []}


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("case", "differing"),
    [
        ("a bit more", ["one"]),
        ("negative zero", ["one"]),
        ("another NaN", ["one"]),
        ("a number for NaN", ["one"]),
        ("missing", ["two"]),
        ("all missing", ["count", "one", "two"]),
        ("another shape", ["two"]),
        ("rounded otherwise", ["one"]),
        ("integers", ["count"]),
    ],
)
def test_weights_unlike_the_checkpoint_are_named(found, case, differing):
    assert found["weights"][case] == {"tensors": 3, "differing": differing}
