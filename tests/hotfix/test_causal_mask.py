import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised, example, rewritten

RULE = "causal-mask"
BEFORE, AFTER = example(RULE)
REMOVAL = AFTER[AFTER.rindex("\n\nif create_causal_mask") :]
HIDDEN = BEFORE[BEFORE.index("\n    @staticmethod") :]


def test_names_do_not_matter():
    check_transformed(RULE, BEFORE.replace("Model", "FooModel"), AFTER.replace("Model", "FooModel"))
    check_transformed(RULE, BEFORE.replace("input_tensor", "inputs_embeds"), _renamed(AFTER))


def _renamed(source: str) -> str:
    # the key that is spelled input_embeds in older releases stays
    return source.replace("input_tensor", "inputs_embeds")


def test_imports_that_are_there_are_not_repeated():
    before = BEFORE.replace("import torch\n", "import inspect\nimport torch\n")
    assert rewritten(RULE, before).count("import inspect\n") == 1


def test_imports_go_first_and_last():
    before = BEFORE.replace("import torch\n", '"""Doc."""\n\nimport torch\nfrom torch import nn\n')
    lines = rewritten(RULE, before).splitlines()
    assert lines[2:7] == ["import copy", "import inspect", "import torch", "from torch import nn", "try:"]


def test_below_the_docstring():
    doc = '        """Build the mask."""\n'
    opening = "    ):\n"
    check_transformed(RULE, BEFORE.replace(opening, opening + doc), AFTER.replace(opening, opening + doc))


def test_nothing_to_hide_from_generate():
    before = BEFORE.replace(HIDDEN, "\n")
    check_transformed(RULE, before, AFTER.replace(HIDDEN, "\n").replace(REMOVAL, ""))


@pytest.mark.parametrize(
    "source",
    [
        "import torch\nclass Model:\n    def forward(self): ...\n",
        "from transformers.masking_utils import create_causal_mask\n"
        "class Model:\n    def forward(self):\n        create_causal_mask()\n",
    ],
)
def test_left_alone(source):
    check_noop(RULE, source)


def test_windows_line_ends_stay():
    check_transformed(RULE, BEFORE.replace("\n", "\r\n"), AFTER.replace("\n", "\r\n"))


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("_update_causal_mask", "_make_mask", 13),
        ("past_key_values", "cache", 7),
        ("input_tensor", "x", 7),
        ("import torch", "import numpy", 7),
        ("import torch", "", 7),
    ],
)
def test_named_with_its_line(old, new, line):
    check_unrecognised(RULE, BEFORE.replace(old, new), line)
