"""Say what the model can do under the names of later releases too.

`_supports_flash_attn_2` became `_supports_flash_attn` and `_supports_static_cache` became
`_can_compile_fullgraph`, both in 4.54; 4.53 alone asks for `_supports_flash_attn_3` too. The old names stay
for the older releases.
"""

from typing import Any

import libcst as cst
import libcst.matchers as m

from opensci_lib.hotfix.rule import Rule, Sources
from opensci_lib.hotfix.tree import replace

_LATER = {
    "_supports_flash_attn_2": ("_supports_flash_attn_3", "_supports_flash_attn"),
    "_supports_static_cache": ("_can_compile_fullgraph",),
}
_FLAG = m.SimpleStatementLine(body=[m.Assign(targets=[m.AssignTarget(target=m.Name())])])


def rewrite(sources: Sources) -> cst.Module | None:
    """Repeat each renamed class flag, with its value, under the later name."""
    tree = sources.modeling
    changes: dict = {}
    for owner in tree.classes.values():
        lines: Any = [line for line in owner.body.body if m.matches(line, _FLAG)]
        flags = {line.body[0].targets[0].target.value: line for line in lines}
        for earlier, later in _LATER.items():
            missing = [name for name in later if earlier in flags and name not in flags]
            if missing:
                changes[flags[earlier]] = [flags[earlier], *(_renamed(flags[earlier], name) for name in missing)]
    return replace(tree.module, changes) if changes else None


def _renamed(line: Any, name: str) -> Any:
    target = line.body[0].targets[0].with_changes(target=cst.Name(name))
    return line.with_changes(body=[line.body[0].with_changes(targets=[target])], leading_lines=[]).deep_clone()


RULE = Rule(
    id="capability-flags",
    target="modeling",
    releases="4.53 and later",
    cause=(
        "4.54 renamed the flags for flash attention and for static caches: under the old names flash attention is "
        "refused, and 4.54 refuses static caches."
    ),
    before="class Base(PreTrainedModel):\n    _supports_flash_attn_2 = True\n    _supports_static_cache = True\n",
    after=(
        "class Base(PreTrainedModel):\n"
        "    _supports_flash_attn_2 = True\n"
        "    _supports_flash_attn_3 = True\n"
        "    _supports_flash_attn = True\n"
        "    _supports_static_cache = True\n"
        "    _can_compile_fullgraph = True\n"
    ),
    trf=(),
    rewrite=rewrite,
)
