from types import SimpleNamespace

import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised, rewritten

RULE = "rope-default"
BEFORE = """\
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

class RotaryEmbedding(nn.Module):
    def __init__(self, config, device=None):
        self.rope_init_fn = ROPE_INIT_FUNCTIONS[self.rope_type]
"""
AFTER = '''\
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

class RotaryEmbedding(nn.Module):
    def __init__(self, config, device=None):
        self.rope_init_fn = {**ROPE_INIT_FUNCTIONS, "default": self.compute_default_rope_parameters}[self.rope_type]

    @staticmethod
    def compute_default_rope_parameters(config, device=None, seq_len=None):
        """Return (inv_freq, scaling) of the plain rotary embedding, which transformers 5 leaves to the model."""
        base = (getattr(config, "rope_parameters", None) or {}).get("rope_theta") or config.rope_theta
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        dim = int(head_dim * getattr(config, "partial_rotary_factor", 1.0))
        return 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.int64).float().to(device) / dim)), 1.0
'''


def test_the_rewrite():
    check_transformed(RULE, BEFORE, AFTER)


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


def test_two_lookups_share_the_method():
    line = "        self.rope_init_fn = ROPE_INIT_FUNCTIONS[self.rope_type]\n"
    result = rewritten(RULE, BEFORE.replace(line, line + line.replace("rope_init_fn", "other")))
    assert result.count("def compute_default_rope_parameters") == 1
    assert result.count('{**ROPE_INIT_FUNCTIONS, "default": self.compute_default_rope_parameters}') == 2


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
        ("self.rope_init_fn = ROPE_INIT_FUNCTIONS[self.rope_type]", "build(ROPE_INIT_FUNCTIONS)", 6),
        ("def __init__", "def build", 6),
        ("class RotaryEmbedding", "f = ROPE_INIT_FUNCTIONS['default']\nclass RotaryEmbedding", 4),
        ("import torch\n", "\n", 6),
    ],
)
def test_named_with_its_line(old, new, line):
    check_unrecognised(RULE, BEFORE.replace(old, new), line)


def test_the_added_method_computes_the_frequencies_of_4_48():
    """Its arithmetic, with lists in place of tensors: 1 / theta ** (2 i / head_dim), scaling 1."""

    devices = []

    class Numbers(list):
        def float(self):
            return self

        def to(self, device):
            devices.append(device)
            return self

        def __truediv__(self, divisor):
            return Numbers(value / divisor for value in self)

        def __rpow__(self, base):
            return Numbers(base**value for value in self)

        def __rtruediv__(self, dividend):
            return Numbers(dividend / value for value in self)

    class Torch:
        int64 = "int64"

        @staticmethod
        def arange(*bounds, dtype):
            assert dtype == "int64"
            return Numbers(range(*bounds))

    source = rewritten(RULE, BEFORE)
    lines = source[source.index("    @staticmethod") :]
    scope = {"torch": Torch}
    exec(f"class Rotary:\n{lines}", scope)
    compute = scope["Rotary"].compute_default_rope_parameters

    def computed(**settings):
        return compute(SimpleNamespace(**settings), device="cpu")

    # 16 ** (2 i / 8) = 1, 2, 4, 8
    assert computed(rope_theta=16.0, head_dim=8) == ([1.0, 0.5, 0.25, 0.125], 1.0)
    # From 5.0 on theta is one of the rope_parameters, unless they leave it out.
    assert computed(rope_parameters={"rope_theta": 16.0}, head_dim=8) == ([1.0, 0.5, 0.25, 0.125], 1.0)
    assert computed(rope_parameters={}, rope_theta=16.0, head_dim=8) == ([1.0, 0.5, 0.25, 0.125], 1.0)
    assert computed(rope_parameters=None, rope_theta=16.0, head_dim=8) == ([1.0, 0.5, 0.25, 0.125], 1.0)
    assert computed(rope_parameters={"rope_theta": 16.0}, rope_theta=9.0, head_dim=8)[0][1] == 0.5
    # Without a head_dim, the hidden size is shared among the heads.
    assert computed(rope_theta=16.0, head_dim=None, hidden_size=24, num_attention_heads=3)[0] == [1, 0.5, 0.25, 0.125]
    assert computed(rope_theta=16.0, hidden_size=24, num_attention_heads=3)[0] == [1.0, 0.5, 0.25, 0.125]
    # A part of each head turns: 16 ** (2 i / 4) = 1, 4
    assert computed(rope_theta=16.0, head_dim=8, partial_rotary_factor=0.5) == ([1.0, 0.25], 1.0)
    assert set(devices) == {"cpu"}
    assert compute(SimpleNamespace(rope_theta=16.0, head_dim=8), None, 4096)[0] == [1.0, 0.5, 0.25, 0.125]
