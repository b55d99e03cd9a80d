"""The file of a capture, in the driver; what is put into it, in kernel environments, on models made by hand."""

import hashlib
import json
from functools import cache

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy.special import log_softmax

from opensci_lib import kernels
from opensci_lib.errors import OpensciError
from opensci_lib.reports.compare import compare_positions, first_divergence
from opensci_lib.runs.capture import Capture, CaptureWriter
from opensci_lib.runs.observe import LogitsWriter
from opensci_lib.runs.tensors import odd_factors
from tests import tiny

FLOATS = {
    "float32": ("F32", np.float32, np.int32),
    "bfloat16": ("BF16", ml_dtypes.bfloat16, np.int16),
    "float16": ("F16", np.float16, np.int16),
    "float64": ("F64", np.float64, np.int64),
}


# The file


def write(path, tensors, prompts=("a b",), stages=("one",), reference=None):
    with CaptureWriter(path, list(prompts), reference) as writer:
        writer.stages = list(stages)
        for name, array in tensors.items():
            writer.add(name, array)
    return Capture(path)


@pytest.mark.parametrize("dtype", FLOATS)
def test_what_is_written_is_read_in_its_own_dtype(tmp_path, dtype):
    code, numpy_dtype, _ = FLOATS[dtype]
    array = np.array([[0.1, -0.0], [3.14159, 1e-3], [np.inf, np.nan]]).astype(numpy_dtype)
    written = {"0.logits": array, "0.token_ids": np.array([2, 1, 0]), "0.bitwise_equal": np.array([True, False])}
    read = write(tmp_path / "c.safetensors", written, prompts=["eins", "zwei ä"], reference="abc")
    assert read.path == tmp_path / "c.safetensors"
    assert (read.prompts, read.stages, read.reference) == (["eins", "zwei ä"], ["one"], "abc")
    for name, expected in written.items():
        assert read[name].dtype == expected.dtype
        assert read[name].shape == expected.shape
        assert read[name].tobytes() == expected.tobytes()
    assert read.path.read_bytes()[8:9] == b"{"  # the format wants the header to begin with it
    with safe_open(read.path, framework="np") as file:  # safetensors' own reader
        assert file.metadata() == {"prompts": '["eins", "zwei \\u00e4"]', "stages": '["one"]', "reference": '"abc"'}
        assert set(file.keys()) == set(written)
        assert file.get_slice("0.logits").get_dtype() == code
        assert file.get_slice("0.token_ids").get_dtype() == "I64"
        assert file.get_slice("0.bitwise_equal").get_dtype() == "BOOL"
        for name, expected in written.items():
            assert file.get_tensor(name).tobytes() == expected.tobytes()


def test_rows_are_a_part_of_the_tensor(tmp_path):
    array = np.arange(60.0).reshape(10, 3, 2)
    with CaptureWriter(tmp_path / "c.safetensors", []) as writer:
        writer.add("0.sin", array[:1])
        for start in (0, 4, 8):
            writer.add("0.logits", array[start : start + 4])
        writer.add("0.cos", array[:2])
    read = Capture(tmp_path / "c.safetensors")
    assert np.array_equal(read["0.logits"], array)
    assert np.array_equal(read.rows("0.logits", 3, 7), array[3:7])
    assert np.array_equal(read.rows("0.logits", 8, 99), array[8:])
    assert np.array_equal(read["0.cos"], array[:2])
    assert np.array_equal(read["0.sin"], array[:1])


def test_a_tensor_may_be_empty(tmp_path):
    read = write(tmp_path / "c.safetensors", {"0.surprisal": np.empty(0), "0.next_logits": np.ones(2)})
    assert read["0.surprisal"].shape == (0,)
    assert read["0.next_logits"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("later", "sentence"),
    [
        (
            [("0.cos", np.zeros((2, 3))), ("0.logits", np.zeros((2, 3)))],
            "0.logits is not the tensor that was written last",
        ),
        ([("0.logits", np.zeros((2, 4)))], "rows of 0.logits come in another dtype or shape"),
        ([("0.logits", np.zeros((2, 3), np.float32))], "rows of 0.logits come in another dtype or shape"),
    ],
)
def test_rows_that_do_not_belong_to_the_last_tensor_are_refused(tmp_path, later, sentence):
    with pytest.raises(ValueError) as refused, CaptureWriter(tmp_path / "c.safetensors", []) as writer:
        for name, array in [("0.logits", np.zeros((2, 3))), *later]:
            writer.add(name, array)
    assert str(refused.value) == sentence
    assert list(tmp_path.iterdir()) == []


def test_it_knows_what_it_keeps(tmp_path):
    kept = write(tmp_path / "kept.safetensors", {"0.logits": np.zeros((1, 2))})
    compared = write(tmp_path / "compared.safetensors", {"0.kl": np.zeros(1)})
    assert kept.keeps_logits
    assert not compared.keeps_logits
    assert "0.kl" in compared
    assert "0.kl" not in kept
    assert kept.reference is None


def test_the_digest_covers_every_prompt_stage_and_position(tmp_path):
    prints = {"0.fingerprints": np.array([[1, 2], [3, 4]]), "1.fingerprints": np.array([[5], [6]])}
    whole = write(tmp_path / "c.safetensors", prints, prompts=["a", "b"]).digest
    assert whole == hashlib.sha256(np.array([1, 2, 3, 4, 5, 6]).tobytes()).hexdigest()
    for name, prompt in prints.items():
        for index in np.ndindex(prompt.shape):
            other = prompt.copy()
            other[index] += 1
            assert write(tmp_path / "o.safetensors", {**prints, name: other}, prompts=["a", "b"]).digest != whole


# Written beside, and moved


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "c.safetensors"
    mapped = write(path, {"0.logits": np.array([[1.0]])})["0.logits"]
    before = path.read_bytes()
    with CaptureWriter(path, ["new"]) as writer:
        writer.add("0.logits", np.array([[2.0]]))
        assert path.read_bytes() == before
        assert {file.name for file in tmp_path.iterdir()} == {"c.safetensors", "c.safetensors.partial"}
        assert Capture(path)["0.logits"].tolist() == [[1]]
    assert Capture(path)["0.logits"].tolist() == [[2]]
    assert mapped.tolist() == [[1]]
    assert [file.name for file in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "c.safetensors"
    write(path, {"0.logits": np.array([[1.0]])})
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), CaptureWriter(path, ["new"]) as writer:
        writer.add("0.logits", np.array([[2.0]]))
        raise ZeroDivisionError
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_header_may_fill_its_room_and_no_more(tmp_path):
    path = tmp_path / "c.safetensors"
    room = 2**18 - 8
    bare = len(json.dumps({"__metadata__": {"prompts": '[""]', "stages": "[]", "reference": "null"}}))
    fits = "x" * (room - bare)
    assert write(path, {}, prompts=[fits], stages=[]).prompts == [fits]
    before = path.read_bytes()
    with pytest.raises(OpensciError) as refused:
        write(path, {}, prompts=[fits + "x"], stages=[])
    assert refused.value.message == (
        f"The header of {path} has room for 262136 bytes and the prompts and names of its tensors take 262137: "
        "give fewer or shorter prompts."
    )
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["c.safetensors"]


# A file that is not what it should be


def header(value, data=b"", promised=None):
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return (len(raw) if promised is None else promised).to_bytes(8, "little") + raw + data


ABOUT = {"__metadata__": {"prompts": "[]", "stages": "[]", "reference": "null"}}


def tensor(begin, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GIF89a, no capture at all, and long enough to be one",
        header(b"{" * 20),
        header(b"\xff\xfe\xfd"),
        header([1, 2]),
        header(ABOUT, promised=10**6),
        header({"a": tensor(0, 8)}, bytes(8)),  # no metadata
        header({"__metadata__": {"prompts": "[]", "stages": "[]"}}),
        header({"__metadata__": {"prompts": "[]", "reference": "null"}}),
        header({"__metadata__": {"stages": "[]", "reference": "null"}}),
        header({"__metadata__": {"prompts": "[", "stages": "[]", "reference": "null"}}),
        header({**ABOUT, "a": tensor(0, 8)}, bytes(7)),
        header({**ABOUT, "a": tensor(0, 8)}, bytes(9)),
        header({**ABOUT, "a": tensor(0, 12)}, bytes(12)),
        header({**ABOUT, "a": tensor(4, 12)}, bytes(12)),
        header({**ABOUT, "a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12)),
        header({**ABOUT, "a": tensor(0, 8), "b": tensor(4, 16)}, bytes(16)),
        header({**ABOUT, "a": tensor(0, 8), "b": tensor(12, 20)}, bytes(20)),
        header({**ABOUT, "a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
        header({**ABOUT, "a": 1}, bytes(8)),
        None,
    ],
)
def test_a_broken_file_gets_one_sentence(tmp_path, content):
    path = tmp_path / "c.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OpensciError) as refused:
        Capture(path)
    assert refused.value.message == f"{path} is missing, cut off or no capture: run infer.ipynb again."


def test_a_capture_that_is_cut_off_anywhere_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    write(path, {"0.logits": np.ones((3, 2)), "0.cos": np.ones((1, 2))})
    content = path.read_bytes()
    for size in (0, 7, 8, 100, 2**18 - 1, 2**18, len(content) - 17, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(OpensciError):
            Capture(path)
    path.write_bytes(content)
    assert Capture(path)["0.cos"].tolist() == [[1, 1]]


def test_tensors_may_stand_in_any_order(tmp_path):
    """Another writer of the format sorts them."""
    path = tmp_path / "c.safetensors"
    save_file({"z": np.zeros(2), "a": np.ones(3)}, path, metadata=ABOUT["__metadata__"])
    assert Capture(path)["a"].tolist() == [1, 1, 1]
    path.write_bytes(header({**ABOUT, "b": tensor(8, 16), "a": tensor(0, 8)}, np.arange(4, dtype="f4").tobytes()))
    assert (Capture(path)["a"].tolist(), Capture(path)["b"].tolist()) == ([0, 1], [2, 3])


# Logits, as they are computed

IDS = np.array([2, 0, 1, 2, 2])
LOGITS = np.array([[1.0, 2.0, 3.0], [0.5, 0.0, -1.0], [4.0, 4.0, 1.0], [0.0, 0.0, 0.0], [9.0, 8.0, 7.0]], np.float32)


def take(path, logits, pieces, reference=None, ids=IDS, number=0):
    """Write the logits of a prompt, `pieces` positions at a time."""
    with CaptureWriter(path, ["a prompt"] * (number + 1), reference and reference.digest) as writer:
        taken = LogitsWriter(writer, number, ids, reference)
        for start in range(0, len(logits), pieces):
            taken.take(logits[start : start + pieces])
        taken.finish()
        writer.add(f"{number}.token_ids", ids)
        for name in ("cos", "sin"):
            writer.add(f"{number}.{name}", np.ones((len(ids), 1)))
        for other in range(number):
            writer.add(f"{other}.logits", LOGITS)
        for other in range(number + 1):
            writer.add(f"{other}.fingerprints", np.ones((1, 1), np.int64))
    return Capture(path)


@pytest.mark.parametrize("pieces", [1, 2, 3, 4, 5])
def test_logits_surprisal_and_next_logits(tmp_path, pieces):
    read = take(tmp_path / "c.safetensors", LOGITS, pieces)
    assert read["0.logits"].dtype == np.float32
    assert np.array_equal(read["0.logits"], LOGITS)
    assert read["0.next_logits"].tolist() == [9, 8, 7]
    # of the ids 0, 1, 2, 2, after the first four positions
    expected = -log_softmax(LOGITS.astype(np.float64), axis=1)[[0, 1, 2, 3], [0, 1, 2, 2]]
    assert read["0.surprisal"].dtype == np.float64
    np.testing.assert_allclose(read["0.surprisal"], expected, rtol=1e-12)
    assert read["0.surprisal"][3] == pytest.approx(np.log(3))
    with safe_open(read.path, framework="np") as file:
        names = {"logits", "next_logits", "surprisal", "token_ids", "fingerprints", "cos", "sin"}
        assert set(file.keys()) == {f"0.{name}" for name in names}


def test_a_prompt_of_one_token_has_no_surprisal(tmp_path):
    read = take(tmp_path / "c.safetensors", LOGITS[:1], 1, ids=IDS[:1])
    assert read["0.surprisal"].shape == (0,)
    assert read["0.next_logits"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("pieces", [1, 2, 5])
@pytest.mark.parametrize("number", [0, 1])
def test_logits_are_compared_on_the_way(tmp_path, pieces, number):
    reference = take(tmp_path / "reference.safetensors", LOGITS, 5, number=number)
    other = LOGITS.copy()
    other[3] = [0.0, 2.0, 0.0]
    read = take(tmp_path / "c.safetensors", other, pieces, reference, number=number)
    assert read.reference == reference.digest
    assert f"{number}.logits" not in read
    assert read[f"{number}.bitwise_equal"].tolist() == [True, True, True, False, True]
    assert read[f"{number}.max_abs_diff"].tolist() == [0, 0, 0, 2, 0]
    assert read[f"{number}.mean_abs_diff"].tolist() == [0, 0, 0, pytest.approx(2 / 3), 0]
    # sum of 1/3 (log 1/3 - log q) over q = softmax(0, 2, 0)
    kl = np.log(1 / 3) - (2 * 0 + 2) / 3 + np.log(2 + np.exp(2))
    assert read[f"{number}.kl"].tolist() == [0, 0, 0, pytest.approx(kl), 0]
    assert read[f"{number}.top1_agreement"].tolist() == [True, True, True, False, True]
    assert read[f"{number}.next_logits"].tolist() == [9, 8, 7]
    assert read[f"{number}.surprisal"][3] == pytest.approx(np.log(2 + np.exp(2)))


@pytest.mark.parametrize("fault", ["other ids", "no logits", "no such prompt"])
def test_a_reference_of_other_prompts_is_refused(tmp_path, fault):
    path = tmp_path / "reference.safetensors"
    if fault == "no logits":
        write(path, {"0.token_ids": IDS})
    else:
        take(path, LOGITS, 5, ids=IDS[::-1] if fault == "other ids" else IDS)
    number = 1 if fault == "no such prompt" else 0
    with pytest.raises(OpensciError) as refused:
        LogitsWriter(CaptureWriter(tmp_path / "c.safetensors", []), number, IDS, Capture(path))
    assert refused.value.message == (
        f"{path} does not hold the logits of prompt {number} with the same token ids: "
        "give as reference a run of the same prompts that kept its logits."
    )


@pytest.mark.parametrize("where", [0, 1023, 1024, 1500, 2047, 2048, 2499])
def test_pieces_cover_every_position(tmp_path, where):
    ids, logits = np.zeros(2500, np.int64), np.zeros((2500, 2), np.float32)
    other = logits.copy()
    other[where] = [0, 2]
    reference, candidate = (
        take(tmp_path / f"{name}.safetensors", rows, 1000, ids=ids) for name, rows in (("r", logits), ("c", other))
    )
    compared = compare_positions(reference, candidate, 0)
    assert {"bitwise_equal", "max_abs_diff", "mean_abs_diff", "kl", "top1_agreement"} < set(compared)
    assert np.flatnonzero(~compared["bitwise_equal"]).tolist() == [where]
    assert np.flatnonzero(compared["max_abs_diff"]).tolist() == [where]
    assert (compared["max_abs_diff"][where], compared["mean_abs_diff"][where]) == (2, 1)
    assert len(compared) == 2500


def test_the_second_prompt_is_compared_with_the_second(tmp_path):
    reference = take(tmp_path / "r.safetensors", LOGITS, 5, number=1)
    candidate = take(tmp_path / "c.safetensors", LOGITS + np.float32(1), 5, number=1)
    assert compare_positions(reference, candidate, 1)["max_abs_diff"].tolist() == [1] * 5


# Fingerprints


def splitmix(count):
    """Return the first numbers of SplitMix64 from 0, each made odd; plain Python."""
    mask, state, numbers = 2**64 - 1, 0, []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        numbers.append((z ^ (z >> 31)) | 1)
    return numbers


def signed(number):
    """Return a number modulo 2**64 as int64 holds it."""
    return (number + 2**63) % 2**64 - 2**63


def fingerprint(bits):
    """Return the hash of one position's bits, signed integers; plain Python."""
    return signed(sum(int(bit) * factor for bit, factor in zip(bits, splitmix(len(bits)), strict=True)))


def test_the_factors_are_published_numbers_made_odd():
    # the first three of java.util.SplittableRandom's algorithm from 0, as many libraries test them
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [int(factor) % 2**64 for factor in odd_factors(3)] == [number | 1 for number in published]


@given(st.integers(0, 300))
def test_factors_are_odd_and_no_two_alike(count):
    factors = odd_factors(count)
    assert factors.dtype == np.int64
    assert factors.tolist() == [signed(number) for number in splitmix(count)]
    assert len(set(factors.tolist())) == count


_OBSERVE = """
import copy, json, sys
import numpy as np, torch
from opensci_lib.errors import OpensciError
from opensci_lib.runs.capture import Capture
from opensci_lib.runs.loading import load
from opensci_lib.runs.observe import observe
from opensci_lib.runs.tensors import as_numpy, bits, fingerprints
from opensci_lib.runs.trace import decoded, trace

folder, out = sys.argv[1:]
DTYPES = ("float32", "bfloat16", "float16", "float64")
torch.manual_seed(0)
ids = [[3], torch.randint(8, (7,)).tolist(), torch.randint(8, (2500,)).tolist()]
prompts = ["one", "seven", "many"]
plain, _ = load(folder)
with torch.no_grad():  # multiples of 1/1024: sums are exact in float32, whatever their order
    for weight in plain.parameters():
        weight.copy_(torch.randint(-1023, 1024, weight.shape) / 1024)
found = {}
for dtype in DTYPES:
    model = copy.deepcopy(plain).to(getattr(torch, dtype))
    observe(model, prompts, ids, f"{out}/{dtype}.safetensors")
    arrays = {}
    for number, prompt in enumerate(ids):
        with torch.inference_mode():  # again, with nothing attached
            logits = model(torch.tensor([prompt])).logits[0]
            embedded = model.model.embed_tokens(torch.tensor(prompt))
        attention = model.model.layers[0].self_attn.trace
        for stage, values in {"embed_tokens": embedded, "lm_head": logits, **attention}.items():
            arrays[f"{number}.{stage}"] = bits(values).numpy()
    np.savez(f"{out}/{dtype}.npz", **arrays)
    # Every bit of every feature turned in a row of its own, then each two features exchanged, then the row twice.
    row = bits(torch.tensor([0.0, -1.5, 3e-5, 7.25, 0.1], dtype=getattr(torch, dtype)))
    width = 8 * row.element_size()
    one = torch.tensor([1], dtype=torch.int64)
    turned = [row.clone() for _ in range(5 * width)]
    for k, other in enumerate(turned):
        other[k // width] ^= (one << (k % width)).to(row.dtype)[0]
    pairs = [(i, j) for i in range(5) for j in range(i)]
    exchanged = []
    for i, j in pairs:
        other = row.clone()
        other[i], other[j] = row[j], row[i]
        exchanged.append(other)
    rows = torch.stack([row, *turned, *exchanged, row, row])
    np.savez(f"{out}/{dtype}-turned.npz", rows=rows.numpy(), hashes=fingerprints(rows.view(getattr(torch, dtype))))

# More numbers than are hashed at once: two rows at a time, one, and one that is itself too wide.
for width in (30_000, 40_000, 70_000):
    rows = torch.rand(3, width)
    np.savez(f"{out}/wide-{width}.npz", rows=bits(rows).numpy(), hashes=fingerprints(rows))

# A model that is wrong, captured as it is and compared with the reference on the way: the same loaded model.
wrong = copy.deepcopy(plain)
with torch.no_grad():
    wrong.lm_head.weight[5] += 0.5
    wrong.model.embed_tokens.weight[6] *= 1.5
reference = f"{out}/float32.safetensors"
for name, model in {"right": plain, "wrong": wrong}.items():
    observe(model, prompts, ids, f"{out}/{name}-kept.safetensors")
    observe(model, prompts, ids, f"{out}/{name}-compared.safetensors", reference=reference)

with torch.inference_mode():
    bare = trace(lambda: plain(torch.tensor([ids[1]])))
captured = Capture(f"{out}/right-kept.safetensors")["1.trace"]
found["trace"] = [len(bare) > 5, decoded(captured.tobytes()) == bare]

# Nothing is left behind in the model, neither after success nor after a failure.
def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

def rotate():
    return sys.modules[type(plain).__module__].apply_rotary_pos_emb.__name__

found["after"] = [hooks(plain), rotate(), list(plain(torch.tensor([[1, 2]])).logits.shape)]
plain.config.most_rows, plain.config.complaint = 0, "enough"
try:
    observe(plain, prompts, ids, f"{out}/failed.safetensors")
except RuntimeError as error:
    found["failure"] = str(error)
del plain.config.most_rows
found["after failure"] = [hooks(plain), rotate(), list(plain(torch.tensor([[1, 2]])).logits.shape)]
try:
    observe(plain, prompts, [[1], [2], [3]], f"{out}/failed.safetensors", reference=reference)
except OpensciError as error:
    found["other reference"] = error.message
found["as_numpy"] = {
    dtype: [str(as_numpy(torch.ones(2, dtype=getattr(torch, dtype), requires_grad=True)).dtype)] for dtype in DTYPES
}
turned_around = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).T
found["transposed"] = as_numpy(turned_around).astype(float).tolist()
json.dump(found, open(f"{out}/found.json", "w"))
"""


@pytest.fixture(scope="module")
def observed(tmp_path_factory):
    """The folder of what one kernel process observed of the hand-made model, with weights that fill all bits."""
    folder = tmp_path_factory.mktemp("observed")
    done = kernels.run("5.23.0", "-c", _OBSERVE, tiny.write(folder / "tiny"), folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


STAGES = [
    "model.embed_tokens",
    "model.layers.0.self_attn.q_rope",
    "model.layers.0.self_attn.k_rope",
    "model.layers.0.self_attn",
    "model.layers.0",
    "model",
    "lm_head",
]
# What passes through the layer and the decoder is the embedding.
SOURCES = ["embed_tokens", "q_rope", "k_rope", "embed_tokens", "embed_tokens", "embed_tokens", "lm_head"]


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", FLOATS)
def test_fingerprints_are_those_of_the_formula_at_each_stage_and_position(observed, dtype):
    capture, traced = Capture(observed / f"{dtype}.safetensors"), np.load(observed / f"{dtype}.npz")
    assert capture.stages == STAGES
    for number, positions in enumerate((1, 7, 2500)):
        assert capture[f"{number}.fingerprints"].shape == (len(STAGES), positions)
        for stage, source in zip(capture[f"{number}.fingerprints"], SOURCES, strict=True):
            assert stage.tolist() == [fingerprint(row) for row in traced[f"{number}.{source}"]]


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", FLOATS)
def test_any_bit_any_exchange_and_no_more_changes_a_fingerprint(observed, dtype):
    turned = np.load(observed / f"{dtype}-turned.npz")
    rows, hashes = turned["rows"], turned["hashes"].tolist()
    assert hashes == [fingerprint(row) for row in rows]
    first, *others = hashes
    count = 5 * 8 * rows.itemsize + 10
    assert first not in others[:count]
    assert others[count:] == [first, first]


@pytest.mark.kernel
@pytest.mark.parametrize("width", [30_000, 40_000, 70_000])
def test_fingerprints_of_more_numbers_than_are_hashed_at_once(observed, width):
    wide = np.load(observed / f"wide-{width}.npz")
    assert wide["hashes"].tolist() == [fingerprint(row) for row in wide["rows"]]


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", FLOATS)
def test_numbers_are_kept_as_computed(observed, dtype):
    _, numpy_dtype, integers = FLOATS[dtype]
    capture, traced = Capture(observed / f"{dtype}.safetensors"), np.load(observed / f"{dtype}.npz")
    assert capture.prompts == ["one", "seven", "many"]
    assert capture.reference is None
    for number, positions in enumerate((1, 7, 2500)):
        logits, ids = capture[f"{number}.logits"], capture[f"{number}.token_ids"]
        assert logits.dtype == numpy_dtype
        assert logits.shape == (positions, 8)
        assert np.array_equal(logits.view(integers), traced[f"{number}.lm_head"])
        assert np.array_equal(capture[f"{number}.next_logits"], logits[-1])
        log_p = log_softmax(logits.astype(np.float64), axis=1)
        assert ids.shape == (positions,)
        np.testing.assert_allclose(
            capture[f"{number}.surprisal"], -log_p[np.arange(positions - 1), ids[1:]], rtol=1e-9
        )
        angles = np.outer(np.arange(positions), tiny.INV_FREQ)
        for name, function in (("cos", np.cos), ("sin", np.sin)):
            assert capture[f"{number}.{name}"].dtype == numpy_dtype
            expected = function(np.hstack([angles, angles]))
            np.testing.assert_allclose(
                capture[f"{number}.{name}"].astype(np.float64), expected, atol=1e-2 if integers is np.int16 else 1e-4
            )
        assert capture[f"{number}.inv_freq"].dtype == np.float32
        assert capture[f"{number}.inv_freq"].tolist() == tiny.INV_FREQ


@pytest.mark.kernel
@pytest.mark.parametrize("model", ["right", "wrong"])
def test_comparing_on_the_way_is_comparing_afterwards(observed, model):
    reference = Capture(observed / "float32.safetensors")
    kept, compared = (Capture(observed / f"{model}-{how}.safetensors") for how in ("kept", "compared"))
    assert kept.keeps_logits
    assert not compared.keeps_logits
    assert kept.digest == compared.digest
    assert (kept.digest == reference.digest) == (model == "right")
    for prompt in range(3):
        after, on_the_way = (compare_positions(reference, run, prompt) for run in (kept, compared))
        assert after.equals(on_the_way)
        for name in ("token_ids", "surprisal", "next_logits", "cos", "sin", "inv_freq", "fingerprints"):
            assert compared[f"{prompt}.{name}"].tobytes() == kept[f"{prompt}.{name}"].tobytes()
    assert on_the_way["bitwise_equal"].all() == (model == "right")
    assert (first_divergence(reference, compared, 2) is None) == (model == "right")


@pytest.mark.kernel
def test_a_capture_without_logits_is_smaller_by_them(observed):
    sizes = [(observed / f"right-{how}.safetensors").stat().st_size for how in ("kept", "compared")]
    # 2508 positions: eight logits of four bytes, or two truth values and three float64
    assert sizes[0] - sizes[1] == 2508 * (8 * 4 - 2 - 3 * 8)


@pytest.mark.kernel
def test_a_trace_holds_none_of_the_watching(observed):
    assert json.loads((observed / "found.json").read_text())["trace"] == [True, True]


@pytest.mark.kernel
def test_watching_leaves_nothing_behind(observed):
    found = json.loads((observed / "found.json").read_text())
    assert found["after"] == found["after failure"] == [0, "apply_rotary_pos_emb", [1, 2, 8]]
    assert found["failure"] == "enough"
    assert found["other reference"].startswith(
        f"{observed}/float32.safetensors does not hold the logits of prompt 0 "
    )
    assert not list(observed.glob("failed*"))


@pytest.mark.kernel
def test_tensors_become_arrays_of_the_same_numbers(observed):
    found = json.loads((observed / "found.json").read_text())
    assert found["as_numpy"] == {dtype: [dtype] for dtype in FLOATS}
    assert found["transposed"] == [[0, 3], [1, 4], [2, 5]]


# The miniature, under two releases

_MINIATURE = """
import json, sys
from opensci_lib.runs.loading import load
from opensci_lib.miniature import PROMPTS
from opensci_lib.runs.observe import observe

folder, calls = sys.argv[1:]
model, tokenizer = load(folder)
for options in json.loads(calls):
    observe(model, PROMPTS, [tokenizer(prompt)["input_ids"] for prompt in PROMPTS], **options)
"""


@pytest.fixture(scope="module")
def captured(run, variant_folder, tmp_path_factory):
    """Captures of the fixed miniature: read in chunks, and compared with 4.48.0 on the way."""
    out = tmp_path_factory.mktemp("captured")

    @cache
    def chunked(tf_version):
        path = out / f"{tf_version}.safetensors"
        calls = [{"path": str(path), "prefill_chunk_size": 100}]
        if tf_version != "4.48.0":
            reference = str(run("4.48.0", "fixed").capture.path)
            calls.append({"path": str(out / "compared.safetensors"), "reference": reference})
        words = ["-c", _MINIATURE, variant_folder("fixed"), json.dumps(calls)]
        assert kernels.run(tf_version, *words).returncode == 0
        return Capture(path)

    return chunked("4.48.0"), chunked("5.2.0"), Capture(out / "compared.safetensors")


@pytest.mark.kernel
def test_chunked_prefill_is_the_same_on_every_release_and_close_to_one_pass(captured, run):
    reference, chunked, _ = captured
    whole = run("4.48.0", "fixed").capture
    assert compare_positions(reference, chunked, 1)["bitwise_equal"].all()
    assert first_divergence(reference, chunked, 1) is None
    assert len(whole["1.token_ids"]) > 300
    assert np.array_equal(chunked["1.cos"], whole["1.cos"])
    np.testing.assert_allclose(chunked["1.logits"], whole["1.logits"], atol=1e-3)


@pytest.mark.kernel
def test_another_release_is_compared_on_the_way(captured, run):
    *_, compared = captured
    reference = run("4.48.0", "fixed").capture
    assert not compared.keeps_logits
    assert compared.reference == reference.digest == compared.digest
    assert compared["1.bitwise_equal"].all()
    assert np.array_equal(compared["1.next_logits"], reference["1.logits"][-1])
    assert np.array_equal(compared["1.surprisal"], reference["1.surprisal"])
    other = run("5.2.0", "minimal").capture
    with pytest.raises(OpensciError, match="run it again with that reference"):
        compare_positions(other, compared, 1)
