"""Do without helpers that transformers no longer has.

None of them computes anything: three ask for the version of torch or flash-attn, the others serve a way of
spreading a model over devices that went with them.
"""

import ast

from opensci_lib.hotfix.edit import Edit
from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import UnrecognisedError

#: Each helper, and what stands in for it.
_INSTEAD = {
    "is_torch_fx_available": "\n    def is_torch_fx_available():\n        return True",
    "is_torch_greater_or_equal_than_1_13": "    is_torch_greater_or_equal_than_1_13 = True",
    # 5.4 alone has none; transformers 5 takes no flash-attn as old as that.
    "is_flash_attn_greater_or_equal_2_10": "\n    def is_flash_attn_greater_or_equal_2_10():\n        return True",
    "assert_device_map": "    assert_device_map = None",
    "get_device_map": "    get_device_map = None",
}
_ATTEMPT = """\
try:
    from {module} import {name}
except ImportError:  # some releases of transformers have none
{instead}
"""


def edits(sources: Sources) -> Edits:
    """Import each in a `try` of its own, with something that takes its place."""
    source = sources.modeling
    for node in source.find(ast.ImportFrom):
        found = [alias for alias in node.names if alias.name in _INSTEAD]
        if node.level or not (node.module or "").startswith("transformers") or not found:
            continue
        if source.enclosing(node, ast.Try) is not None:
            continue
        if node not in source.imports() or any(alias.asname for alias in found):
            raise UnrecognisedError(node, f"{found[0].name} is imported inside a block, or under another name")
        if len(found) == len(node.names):
            yield Edit(*source.lines(node), "")
        elif len(found) > 1:
            raise UnrecognisedError(node, "the import brings several names that may be missing, and others")
        else:
            yield source.without(source.start(found[0]), source.end(found[0]))
        for alias in found:
            instead = _INSTEAD[alias.name]
            yield source.below_imports(_ATTEMPT.format(module=node.module, name=alias.name, instead=instead))


RULE = Rule(
    id="lost-imports",
    releases="4.48, 5.0 and later",
    cause="Helpers that tell versions or spread a model over devices are gone, so the file does not import.",
    before="from transformers.utils import is_torch_fx_available, logging\n",
    after=(
        "from transformers.utils import logging\n"
        "\n"
        "try:\n"
        "    from transformers.utils import is_torch_fx_available\n"
        "except ImportError:  # some releases of transformers have none\n"
        "\n"
        "    def is_torch_fx_available():\n"
        "        return True\n"
    ),
    signs=tuple(_INSTEAD),
    edits=edits,
)
