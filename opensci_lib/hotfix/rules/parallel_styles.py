"""Say in each release's own words how processes share the head, and the norms of queries and keys.

The head's style was called "colwise_rep" until 5.0, is "colwise_gather_output" from 5.1 on, and has both names from
5.16 on. A norm of each head's queries or keys learns from the heads that its process holds: from 5.3 on a
style sums such gradients, and earlier releases have none, not for Qwen3 either.
"""

import ast

from opensci_lib.hotfix.edit import Edit
from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.rules import parallel_plan
from opensci_lib.hotfix.rules.parallel_plan import Decoder
from opensci_lib.hotfix.source import Source, dotted, method

_STYLES = "ALL_PARALLEL_STYLES"
_EARLIER, _LATER, _SUMMED = "colwise_rep", "colwise_gather_output", "replicated_with_grad_allreduce"
_HEAD = f'"{_EARLIER}" if "{_EARLIER}" in {_STYLES} else "{_LATER}"'
_IMPORT = f"""\
try:
    from transformers.integrations.tensor_parallel import {_STYLES}
except ImportError:  # transformers 4.51 and older
    {_STYLES} = {{"{_EARLIER}"}}
"""


def edits(sources: Sources) -> Edits:
    """Choose the styles where the model and its head declare them, if the model is one that `parallel-plan` knows."""
    source = sources.modeling
    decoder = parallel_plan.decoder(source)
    found = [*_of_norms(source, decoder), *_of_heads(source, decoder)] if decoder else []
    yield from found
    if any(isinstance(edit, Edit) and _STYLES in edit.text for edit in found):
        yield source.below_imports(_IMPORT)


def _of_norms(source: Source, decoder: Decoder) -> Edits:
    initializer = method(decoder.owner, "__init__")
    calls = source.calls("self.post_init", initializer) if initializer else []
    line = source.enclosing(calls[-1], ast.Expr) if calls else None
    if decoder.head_norms and initializer and line and "self._tp_plan" not in source.code(initializer):
        rows = [f'    self._tp_plan["{path}"] = "{_SUMMED}"\n' for path in decoder.head_norms]
        yield source.after(line, f'if "{_SUMMED}" in {_STYLES}:\n' + "".join(rows))


def _of_heads(source: Source, decoder: Decoder) -> Edits:
    """Yield what the plans of the models that put one matrix on top of the decoder lack."""
    for owner in source.classes.values():
        made = parallel_plan.modules(source, owner)
        heads = [name for name in made if parallel_plan.is_made_of(source, made, name, "torch.nn.Linear")]
        plans = {dotted(line.targets[0]): line for line in owner.body if isinstance(line, ast.Assign)}
        tied = {"_tied_weights_keys", "_tp_plan"} & plans.keys()
        if len(heads) != 1 or not tied or decoder.owner.name not in {dotted(call.func) for call in made.values()}:
            continue
        after = plans.get("_tp_plan") or plans["_tied_weights_keys"]
        added = "" if "_tp_plan" in plans else f'_tp_plan = {{"{heads[0]}": {_HEAD}}}\n'
        added += "" if "_pp_plan" in plans else f'_pp_plan = {{"{heads[0]}": (["hidden_states"], ["logits"])}}\n'
        if isinstance(after.value, ast.Dict) and "_tp_plan" in plans:
            for style in after.value.values:
                if isinstance(style, ast.Constant) and style.value == _EARLIER:
                    yield source.replaced(style, _HEAD)
        if added:
            yield source.after(after, added)


_HEADED = """
class ForCausalLM(PreTrainedModel):
    _tp_plan = {{"lm_head": {style}}}
{plan}
    def __init__(self, config):
        self.model = Model(config)
        self.lm_head = nn.Linear(8, 8)
"""
_BEFORE = parallel_plan.RULE.others["modeling"]
_NORM = f"""\
        self.post_init()
        if "{_SUMMED}" in {_STYLES}:
            self._tp_plan["layers.*.self_attn.q_norm"] = "{_SUMMED}"
"""

RULE = Rule(
    id="parallel-styles",
    releases="5.3 and later",
    cause=(
        "5.14 and 5.15 do not know the style by which processes shared the head before, and gradients of norms of "
        "queries and keys, of which each process sees some heads, are summed from 5.3 on where the plan says so."
    ),
    before=_BEFORE + _HEADED.format(style=f'"{_EARLIER}"', plan=""),
    after=(
        _BEFORE.replace("from torch import nn\n", f"from torch import nn\n\n{_IMPORT}").replace(
            "        self.post_init()\n", _NORM
        )
        + _HEADED.format(style=_HEAD, plan='    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}\n')
    ),
    edits=edits,
)
