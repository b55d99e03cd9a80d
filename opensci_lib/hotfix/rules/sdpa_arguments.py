"""Ask `scaled_dot_product_attention` for the same on every release.

From 4.54 on releases announce grouped heads instead of repeating the keys, until 5.10 even where each head has its
own, and from 4.56 on they hand over what does not lie in one piece. On a CPU the numbers stay the same; a GPU may
answer with another kernel, and with it other bits.
"""

import ast
import textwrap

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import FUNCTIONS, UnrecognisedError

_TABLE = "transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS"
_NEEDED = {"num_key_value_groups", "is_causal"}
_FUNCTION = """\
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
    attn_output = {torch}.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling, is_causal=is_causal
    )
    return attn_output.transpose(1, 2).contiguous(), None


"""
_CHOICE = """\
if {function} is {table}["sdpa"]:
    {function} = sdpa_attention_forward
"""


def edits(sources: Sources) -> Edits:
    """Take a function of the file's own where the release's would be taken."""
    source = sources.modeling
    if any(function.name == "sdpa_attention_forward" for function in source.find(ast.FunctionDef)):
        return
    users = {}
    for use in source.find(ast.Subscript):
        if _TABLE not in source.names(use.value):
            continue
        line, owner = source.enclosing(use, ast.stmt), source.enclosing(use, ast.ClassDef)
        if not isinstance(line, ast.Assign) or line.value is not use or owner is None:
            raise UnrecognisedError(use, "the attention function is not looked up in an assignment of its own")
        has = {node.attr for node in source.find(ast.Attribute, within=owner) if isinstance(node.ctx, ast.Store)}
        if not has >= _NEEDED:
            raise UnrecognisedError(use, f"{owner.name} does not set {' and '.join(sorted(_NEEDED))}")
        yield source.after(line, _CHOICE.format(function=source.code(line.targets[0]), table=source.code(use.value)))
        users[owner.name] = owner
    if not users:
        return
    first = next(iter(users.values()))
    if not any(function.name == "repeat_kv" for function in source.tree.body if isinstance(function, FUNCTIONS)):
        raise UnrecognisedError(first, "the file has no repeat_kv")
    if (torch := source.name_of("torch")) is None:
        raise UnrecognisedError(first, "the file does not import torch")
    yield source.before(first, _FUNCTION.format(torch=torch))


_EXAMPLE = """\
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

def repeat_kv(x, n): ...

{function}class Attention(torch.nn.Module):
    def __init__(self, config):
        self.num_key_value_groups = config.heads // config.key_value_heads
        self.is_causal = True

    def forward(self, q, k, v, mask):
        attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
{choice}        return attend(self, q, k, v, mask)
"""

RULE = Rule(
    id="sdpa-arguments",
    releases="4.54 and later",
    cause=(
        "Releases ask scaled_dot_product_attention for grouped heads where 4.48 repeats the keys, and hand over what "
        "does not lie in one piece: equal on a CPU, other kernels and other bits on a GPU."
    ),
    before=_EXAMPLE.format(function="", choice=""),
    after=_EXAMPLE.format(
        function=_FUNCTION.format(torch="torch"),
        choice=textwrap.indent(_CHOICE.format(function="attend", table="ALL_ATTENTION_FUNCTIONS"), " " * 8),
    ),
    edits=edits,
)
