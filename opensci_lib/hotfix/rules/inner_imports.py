"""Let a model load without the packages that only some of its methods import.

transformers looks for every package that the code names, also inside functions, and imports it before it loads the
model. A package that no longer goes with later releases keeps the model from loading, even where nobody calls that
method. What stands in a `try` is not looked for.
"""

import ast
import sys

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import FUNCTIONS, Source

_THERE = ("transformers", "torch", *sys.stdlib_module_names)


def edits(sources: Sources) -> Edits:
    """Put each such import into a `try` that changes nothing."""
    source = sources.modeling
    for line in source.find(ast.Import, ast.ImportFrom):
        if source.enclosing(line, *FUNCTIONS) and not source.enclosing(line, ast.Try) and _is_foreign(line):
            yield from _tried(source, line)


def _is_foreign(line: ast.Import | ast.ImportFrom) -> bool:
    if isinstance(line, ast.ImportFrom):
        return not line.level and (line.module or "").partition(".")[0] not in _THERE
    return any(alias.name.partition(".")[0] not in _THERE for alias in line.names)


def _tried(source: Source, line: ast.Import | ast.ImportFrom) -> Edits:
    yield from source.deeper(line, "try:  # the package is needed here alone, not to load the model\n")
    yield source.after(line, "except ImportError:\n    raise\n")


RULE = Rule(
    id="inner-imports",
    releases="all",
    cause=(
        "transformers imports, before it loads a model, every package that the code names anywhere: one that only a "
        "method needs, and that no longer works, keeps the model from loading."
    ),
    before="def chat(self):\n    from streaming.main import Stream\n\n    return Stream(self)\n",
    after=(
        "def chat(self):\n"
        "    try:  # the package is needed here alone, not to load the model\n"
        "        from streaming.main import Stream\n"
        "    except ImportError:\n"
        "        raise\n"
        "\n"
        "    return Stream(self)\n"
    ),
    edits=edits,
)
