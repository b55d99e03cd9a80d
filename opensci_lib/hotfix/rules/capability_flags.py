"""Say what the model can do under the names of later releases too.

`_supports_flash_attn_2` became `_supports_flash_attn` and `_supports_static_cache` became
`_can_compile_fullgraph`, both in 4.54; 4.53 alone asks for `_supports_flash_attn_3` too. The old names stay
for the older releases.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources

_LATER = {
    "_supports_flash_attn_2": ("_supports_flash_attn_3", "_supports_flash_attn"),
    "_supports_static_cache": ("_can_compile_fullgraph",),
}


def edits(sources: Sources) -> Edits:
    """Repeat each renamed class flag, with its value, under the later name."""
    source = sources.modeling
    for owner in source.classes.values():
        flags = {
            line.targets[0].id: line
            for line in owner.body
            if isinstance(line, ast.Assign) and len(line.targets) == 1 and isinstance(line.targets[0], ast.Name)
        }
        for earlier, later in _LATER.items():
            for name in later:
                if earlier in flags and name not in flags:
                    yield source.after(flags[earlier], f"{name} = {source.code(flags[earlier].value)}")


RULE = Rule(
    id="capability-flags",
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
    edits=edits,
)
