import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised

RULE = "sdpa-arguments"
HEAD = """\
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

def repeat_kv(x, n): ...

"""
FUNCTION = """\
# As in transformers 4.48: later releases hand over other arguments, to which a GPU may answer with other bits.
def sdpa_attention_forward(
    module, query, key, value, attention_mask, dropout=0.0, scaling=None, is_causal=None, **kwargs
):
    key, value = repeat_kv(key, module.num_key_value_groups), repeat_kv(value, module.num_key_value_groups)
    if attention_mask is not None:
        attention_mask = attention_mask[:, :, :, : key.shape[-2]]
    if is_causal is None:
        is_causal = module.is_causal
    is_causal = attention_mask is None and query.shape[2] > 1 and is_causal
    if is_causal:  # a static cache is longer than what was read so far
        key, value = key[:, :, : query.shape[2]], value[:, :, : query.shape[2]]
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    attn_output = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling, is_causal=is_causal
    )
    return attn_output.transpose(1, 2).contiguous(), None


"""
LAYER = """\
class Attention(torch.nn.Module):
    def __init__(self, config):
        self.num_key_value_groups = config.heads // config.key_value_heads
        self.is_causal = True

    def forward(self, q, k, v, mask):
        attend = eager
        if self.kind != "eager":
            attend = ALL_ATTENTION_FUNCTIONS[self.kind]
        return attend(self, q, k, v, mask)
"""
CHOSEN = LAYER.replace(
    "[self.kind]\n",
    """[self.kind]
            if attend is ALL_ATTENTION_FUNCTIONS["sdpa"]:
                attend = sdpa_attention_forward
""",
)


def test_the_rewrite():
    check_transformed(RULE, HEAD + LAYER, HEAD + FUNCTION + CHOSEN)


def test_by_the_file_s_own_names():
    names = {"import torch\n": "import torch as t\n", "torch.nn": "t.nn", "ALL_": "_", "attend": "chosen"}
    before, after = HEAD + LAYER, HEAD + FUNCTION + CHOSEN
    for name, other in names.items():
        before, after = before.replace(name, other), after.replace(name, other)
    imported = "import ALL_ATTENTION_FUNCTIONS as _ATTENTION_FUNCTIONS"
    before, after = (text.replace("import _ATTENTION_FUNCTIONS", imported) for text in (before, after))
    check_transformed(RULE, before, after)


def test_one_function_for_two_kinds_of_attention():
    two = HEAD + LAYER + "\n" + LAYER.replace("Attention(", "Other(")
    chosen = HEAD + FUNCTION + CHOSEN + "\n" + CHOSEN.replace("Attention(", "Other(")
    check_transformed(RULE, two, chosen)


@pytest.mark.parametrize(
    "source",
    [
        HEAD,  # looks nothing up
        HEAD.replace("_utils", "_other") + LAYER,  # another table
        HEAD + "def sdpa_attention_forward(module): ...\n\n" + LAYER,  # has its own
        HEAD + LAYER.replace("[self.kind]", ".get_interface(self.kind, eager)"),
    ],
)
def test_left_alone(source):
    check_noop(RULE, source)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("attend = ALL_ATTENTION_FUNCTIONS[self.kind]", "return ALL_ATTENTION_FUNCTIONS[self.kind](self, q)", 14),
        ("self.is_causal = True", "pass", 14),
        ("self.num_key_value_groups", "groups", 14),
        ("def repeat_kv", "def repeat", 6),
        ("import torch\n", "import numpy\n", 6),
    ],
)
def test_named_with_its_line(old, new, line):
    check_unrecognised(RULE, (HEAD + LAYER).replace(old, new), line)


def test_attention_chosen_outside_a_class():
    check_unrecognised(RULE, HEAD + LAYER + "\nATTENTION = ALL_ATTENTION_FUNCTIONS['sdpa']\n", 17)
