import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised, example, rewritten

RULE = "rope-default"
BEFORE, AFTER = example(RULE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("RotaryEmbedding", "FooRotaryEmbedding"),
        ("self.rope_type", "config.rope_scaling['rope_type']"),
        ("self.rope_init_fn", "rope_init_fn"),
        ("import torch\n", "import torch as th\n"),
        ("config, device=None):\n", "config,\n        device=None,\n    ):\n"),
    ],
)
def test_names_and_looks_do_not_matter(old, new):
    before, after = BEFORE.replace(old, new), AFTER.replace(old, new)
    if new.startswith("import torch as"):
        after = after.replace("torch.arange", "th.arange").replace("dtype=torch.", "dtype=th.")
    if "device=None,\n" in new:  # the added method keeps its own looks
        after = AFTER.replace(f"__init__(self, {old}", f"__init__(self, {new}")
    check_transformed(RULE, before, after)


@pytest.mark.parametrize(
    ("imported", "table"),
    [
        ("import transformers.modeling_rope_utils as ru", "ru.ROPE_INIT_FUNCTIONS"),
        ("from transformers import modeling_rope_utils", "modeling_rope_utils.ROPE_INIT_FUNCTIONS"),
        ("from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS as TABLE", "TABLE"),
    ],
)
def test_however_the_table_is_imported(imported, table):
    original = "from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS"

    def with_import(source: str) -> str:
        first, second = source.split(original)
        return first + imported + second.replace("ROPE_INIT_FUNCTIONS", table)

    check_transformed(RULE, with_import(BEFORE), with_import(AFTER))


@pytest.mark.parametrize(
    "source",
    [
        "from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS\n",
        "from elsewhere import ROPE_INIT_FUNCTIONS\nclass R:\n    def __init__(self):\n"
        "        self.f = ROPE_INIT_FUNCTIONS['default']\n",
    ],
)
def test_left_alone(source):
    check_noop(RULE, source)


def test_windows_line_ends_stay():
    check_transformed(RULE, BEFORE.replace("\n", "\r\n"), AFTER.replace("\n", "\r\n"))


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("self.rope_init_fn = ROPE_INIT_FUNCTIONS[self.rope_type]", "f = ROPE_INIT_FUNCTIONS.get('default')", 6),
        ("self.rope_init_fn = ROPE_INIT_FUNCTIONS[self.rope_type]", "ROPE_INIT_FUNCTIONS['default'](config)", 6),
        ("def __init__", "def build", 6),
        ("class RotaryEmbedding", "f = ROPE_INIT_FUNCTIONS['default']\nclass RotaryEmbedding", 4),
        ("import torch\n", "\n", 6),
    ],
)
def test_named_with_its_line(old, new, line):
    check_unrecognised(RULE, BEFORE.replace(old, new), line)


def test_the_added_method_computes_the_frequencies_of_4_48():
    """Its arithmetic, with lists in place of tensors: 1 / theta ** (2 i / head_dim), scaling 1."""

    class Numbers(list):
        float = to = lambda self, *_: self

        def __truediv__(self, divisor):
            return Numbers(value / divisor for value in self)

        def __rpow__(self, base):
            return Numbers(base**value for value in self)

        def __rtruediv__(self, dividend):
            return Numbers(dividend / value for value in self)

    class Torch:
        int64 = None

        @staticmethod
        def arange(*bounds, dtype):
            return Numbers(range(*bounds))

    class Config:
        rope_theta, head_dim = 10000.0, 8

    source = rewritten(RULE, BEFORE)
    lines = source[source.index("    @staticmethod") :]
    scope = {"torch": Torch}
    exec(f"class Rotary:\n{lines}", scope)
    compute = scope["Rotary"].compute_default_rope_parameters
    inv_freq, scaling = compute(Config)
    assert inv_freq == pytest.approx([10000.0 ** -(i / 8) for i in (0, 2, 4, 6)])
    assert scaling == 1.0
    Config.rope_parameters = {"rope_theta": 16.0}
    assert compute(Config)[0][2] == 16.0**-0.5
