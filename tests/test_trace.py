"""The operations that a call asks for: recorded in a kernel environment on modules made by hand, compared here."""

import json

import pytest

from opensci_lib import kernels
from opensci_lib.runs.trace import ATTENTION, HARMLESS, Operation, compare, decoded, encoded

# Comparing


def attention(**changes) -> Operation:
    asked = {"query": "float32[1, 2, 5, 4]", "attn_mask": None, "is_causal": True, "enable_gqa": False}
    return Operation(ATTENTION, asked | changes)


def add(other: str) -> Operation:
    return Operation("aten.add.Tensor", {"self": "float32[1, 2, 5, 5]", "other": other})


MM = Operation("aten.mm.default", {"self": "float32[2, 3]", "mat2": "float32[3, 4]"})


def test_equal_traces_differ_nowhere():
    assert compare([MM, attention()], [MM, attention()]) is None
    assert compare([], []) is None


@pytest.mark.parametrize(
    ("right", "found"),
    [
        (attention(attn_mask="float32[1, 1, 5, 5]"), attention(attn_mask="bool[1, 1, 5, 5]")),
        (
            attention(attn_mask="bfloat16[1, 1, 5, 5]"),
            attention(attn_mask="bool[1, 1, 5, 5] in steps of [0, 0, 9, 1]"),
        ),
        (add("float32[1, 1, 5, 5]"), add("float32[1, 1, 5, 5] in steps of [0, 0, 9, 1]")),
    ],
)
def test_what_can_t_change_a_bit_is_no_difference(right, found):
    assert compare([right], [found]) is None
    assert compare([found], [right]) is None


@pytest.mark.parametrize(
    ("right", "found", "words"),
    [
        (
            attention(),
            attention(attn_mask="bool[1, 1, 5, 5]", is_causal=False),
            f"{ATTENTION}: is_causal False instead of True, attn_mask bool[1, 1, 5, 5] instead of None",
        ),
        (attention(), attention(enable_gqa=True), f"{ATTENTION}: enable_gqa True instead of False"),
        (
            attention(attn_mask="bool[1, 1, 5, 5]"),
            attention(attn_mask="bool[2, 1, 5, 5]"),
            f"{ATTENTION}: attn_mask bool[2, 1, 5, 5] instead of bool[1, 1, 5, 5]",
        ),
        (
            attention(),
            attention(query="float32[1, 2, 5, 4] in steps of [0, 4, 8, 1]"),
            f"{ATTENTION}: query float32[1, 2, 5, 4] in steps of [0, 4, 8, 1] instead of float32[1, 2, 5, 4]",
        ),
        (
            add("float32[1, 1, 5, 5]"),
            add("bfloat16[1, 1, 5, 5]"),
            "aten.add.Tensor: other bfloat16[1, 1, 5, 5] instead of float32[1, 1, 5, 5]",
        ),
        (
            MM,
            Operation("aten.mm.default", {**MM.arguments, "out_dtype": "float32"}),
            "aten.mm.default: out_dtype float32 instead of None",
        ),
    ],
)
def test_what_can_change_a_bit_is_said(right, found, words):
    assert compare([MM, right, MM], [MM, found, add("")]) == f"operation 2 of 3, {words}"


def test_another_operation_is_named():
    assert compare([MM, MM], [MM, attention()]) == f"operation 2 of 2: {ATTENTION} instead of aten.mm.default"


def test_operations_that_are_left_out_or_added():
    assert compare([MM, MM], [MM]) == "1 operations instead of 2"
    assert compare([MM], [MM, MM]) == "2 operations instead of 1"


def test_each_harmless_difference_has_its_reason():
    assert [(name, argument) for name, argument, _, _ in HARMLESS] == [
        (ATTENTION, "attn_mask"),
        ("aten.add.Tensor", "other"),
    ]
    assert all(len(reason) > 60 for *_, reason in HARMLESS)


def test_a_trace_is_kept_as_text():
    scalars = Operation("aten.x", {"a": [1, 2.5, "float32[1]"], "b": None, "c": True, "d": "ä"})
    assert decoded(encoded([MM, scalars])) == [MM, scalars]
    assert json.loads(encoded([MM])) == [
        {"name": "aten.mm.default", "arguments": {"self": "float32[2, 3]", "mat2": "float32[3, 4]"}}
    ]


# Recording

_TRACE = """
import json, sys
from dataclasses import asdict
import torch
from torch.nn.functional import scaled_dot_product_attention as attend
from opensci_lib.runs.trace import trace

torch.manual_seed(0)

def made(device):
    linear = torch.nn.Linear(3, 4, bias=False, device=device)
    x = torch.rand(2, 3, device=device)
    heads = torch.rand(1, 5, 2, 4, device=device).transpose(1, 2)
    ids = torch.tensor([[1, 1, 0, 0, 0]], device=device)

    def masked():
        scores = heads[0, 0] @ heads[0, 0].T
        hidden = (torch.arange(5, device=device)[None] > torch.arange(5, device=device)[:, None]) | (ids == 0)
        lowest = torch.zeros(5, 5, device=device).masked_fill(hidden, -1e30) * 2
        return scores + torch.where(hidden, torch.tensor(0.5), lowest)

    def moved():
        return torch.cat([x.clone().t(), x.T.contiguous()]).reshape(-1)[:5].expand(2, 5).repeat(1, 2)

    def learned():
        linear(x).sum().backward()

    def in_place():
        return x.clone().mul_(2)

    mask = torch.ones(1, 1, 5, 5, dtype=torch.bool, device=device)
    return {
        "linear": lambda: linear(x),
        "masked": masked,
        "moved": moved,
        "cast": lambda: x.to(torch.bfloat16).to(torch.bfloat16),
        "counted": lambda: (ids + 1, x.argmax(-1), x > 0),
        "learned": learned,
        "in place": in_place,
        "attention": lambda: attend(heads, heads, heads, is_causal=True),
        "attention, all said": lambda: attend(
            heads.contiguous(), heads, heads, mask, 0.0, False, scale=0.5, enable_gqa=False
        ),
        "nothing": lambda: None,
    }

found = {
    device: {name: [asdict(operation) for operation in trace(call)] for name, call in made(device).items()}
    for device in ("cpu", "meta")
}
json.dump(found, open(sys.argv[1], "w"))
"""


@pytest.fixture(scope="module", params=["4.48.0", "5.23.0"])
def traced(request, tmp_path_factory):
    output = tmp_path_factory.mktemp("trace") / "found.json"
    assert kernels.run(request.param, "-c", _TRACE, output).returncode == 0
    return json.loads(output.read_text())


def operation(name, **arguments):
    return {"name": name, "arguments": arguments}


HEADS = "float32[1, 2, 5, 4] in steps of [0, 4, 8, 1]"
ASKED = {
    "query": HEADS, "key": HEADS, "value": HEADS, "attn_mask": None,
    "dropout_p": 0.0, "is_causal": False, "scale": None, "enable_gqa": False,
}  # fmt: skip


@pytest.mark.kernel
def test_what_is_recorded_of_a_call(traced):
    weight = "float32[3, 4] in steps of [1, 3]"
    assert traced["cpu"] == {
        "linear": [operation("aten.mm.default", self="float32[2, 3]", mat2=weight)],
        # neither the integers nor the mask that they become, nor numbers that the code writes out
        "masked": [
            operation(
                "aten.mm.default",
                self="float32[5, 4] in steps of [8, 1]",
                mat2="float32[4, 5] in steps of [1, 8]",
            ),
            operation("aten.add.Tensor", self="float32[5, 5]", other="float32[5, 5]"),
        ],
        "moved": [],
        "cast": [operation("aten._to_copy.default", self="float32[2, 3]", dtype="torch.bfloat16")],
        "counted": [],
        "learned": [
            operation("aten.mm.default", self="float32[2, 3]", mat2=weight),
            operation("aten.sum.default", self="float32[2, 4]"),
            # the sum's gradient is one number, repeated without a copy
            operation("aten.mm.default", self="float32[4, 2] in steps of [0, 0]", mat2="float32[2, 3]"),
        ],
        "in place": [operation("aten.mul_.Tensor", self="float32[2, 3]", other=2)],
        # one operation, whatever it is made of on this device
        "attention": [operation(ATTENTION, **{**ASKED, "is_causal": True})],
        "attention, all said": [
            operation(
                ATTENTION, **{**ASKED, "query": "float32[1, 2, 5, 4]", "attn_mask": "bool[1, 1, 5, 5]", "scale": 0.5}
            )
        ],
        "nothing": [],
    }


@pytest.mark.kernel
def test_without_numbers_the_same_is_asked(traced):
    assert traced["meta"] == traced["cpu"]
