import pytest

from tests.hotfix.specification import check_noop, check_transformed

RULE = "cache-length"


def test_over_several_lines_and_under_another_name():
    check_transformed(
        RULE,
        "import torch as t\n\npositions = t.arange(\n    past, past + count, device=device\n)\n",
        "import torch as t\n\npositions = t.arange(count, device=device) + past\n",
    )


@pytest.mark.parametrize(
    "call",
    [
        "torch.arange(count)",
        "torch.arange(past, other + count)",
        "torch.arange(past, past - count)",
        "f(past, past + count)",
    ],
)
def test_left_alone(call):
    check_noop(RULE, f"import torch\n\npositions = {call}\n")
