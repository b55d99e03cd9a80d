"""Have what `check_model_inputs` did on each release: it fills in settings and records hidden states and attentions.

From 4.54 to 5.1 it is one decorator. 5.2 parts it in two, `merge_with_config_defaults` and `capture_outputs`, and
moves `OutputRecorder` to the latter's module. 5.4 brings the old name back, for the first half alone: a file that
imports it loads, and hands out no hidden states.
"""

import ast

from opensci_lib.hotfix.edit import Edit
from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import UnrecognisedError

_MODULE = "transformers.utils.generic"
_DECORATOR, _RECORDER = "check_model_inputs", "OutputRecorder"
_BOTH = """\
try:  # 5.2 and later have two in its place
    from transformers.utils.generic import merge_with_config_defaults
    from transformers.utils.output_capturing import capture_outputs
except ImportError:
    from transformers.utils.generic import check_model_inputs
else:

    def check_model_inputs(function=None, **options):
        if function is None:
            return lambda function: check_model_inputs(function, **options)
        return merge_with_config_defaults(capture_outputs(function, **options))
"""
_MOVED = """\
try:  # 5.2 and later
    from transformers.utils.output_capturing import OutputRecorder
except ImportError:
    from transformers.utils.generic import OutputRecorder
"""
_INSTEAD = {_DECORATOR: _BOTH, _RECORDER: _MOVED}


def edits(sources: Sources) -> Edits:
    """Import each in a `try` of its own, from where it is, or make it of what it was parted into."""
    source = sources.modeling
    for node in source.find(ast.ImportFrom):
        found = [alias for alias in node.names if alias.name in _INSTEAD]
        if node.level or node.module != _MODULE or not found or source.enclosing(node, ast.Try):
            continue
        if node not in source.imports() or any(alias.asname for alias in found):
            raise UnrecognisedError(node, f"{found[0].name} is imported inside a block, or under another name")
        if len(found) == len(node.names):
            yield Edit(*source.lines(node), "")
        else:
            others = ", ".join(source.code(alias) for alias in node.names if alias not in found)
            yield source.replaced(node, f"from {_MODULE} import {others}")
        for alias in found:
            yield source.below_imports(_INSTEAD[alias.name])


RULE = Rule(
    id="check-model-inputs",
    releases="5.2 and later",
    cause="check_model_inputs is gone in 5.2 and 5.3, and from 5.4 on records neither hidden states nor attentions.",
    before=f"from {_MODULE} import {_DECORATOR}\n",
    after=f"\n{_BOTH}",
    signs=(_DECORATOR, _RECORDER),
    edits=edits,
)
