"""Carry on from token to token without an attention mask.

From 5.18 on a mask that masks nothing is dropped before the first token. A model with an
`_update_model_kwargs_for_generation` of its own looks whether there is an entry, and finds None.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import method

_KEY = "attention_mask"


def edits(sources: Sources) -> Edits:
    """Look whether the entry is a mask."""
    source = sources.modeling
    for owner in source.classes.values():
        function = method(owner, "_update_model_kwargs_for_generation")
        for test in source.find(ast.Compare, within=function) if function else []:
            match test:
                case ast.Compare(left=ast.Constant(value=key), ops=[ast.In()], comparators=[ast.Name() as given]):
                    if key == _KEY:
                        yield source.replaced(test, f'{source.code(given)}.get("{_KEY}") is not None')


_EXAMPLE = (
    "class ForCausalLM(PreTrainedModel):\n"
    "    def _update_model_kwargs_for_generation(self, outputs, model_kwargs):\n"
    "        if {test}:\n"
    '            mask = model_kwargs["attention_mask"]\n'
    '            model_kwargs["attention_mask"] = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=-1)\n'
    "        return model_kwargs\n"
)

RULE = Rule(
    id="dropped-mask",
    releases="5.18 and later",
    cause="generate() drops a mask that masks nothing; a model that updates the mask itself finds None in its place.",
    before=_EXAMPLE.format(test='"attention_mask" in model_kwargs'),
    after=_EXAMPLE.format(test='model_kwargs.get("attention_mask") is not None'),
    signs=("'NoneType' object has no attribute 'new_ones'",),
    edits=edits,
)
