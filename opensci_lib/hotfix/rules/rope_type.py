"""Read `rope_scaling` as transformers 4 gave it.

From 5.0 on `config.rope_scaling` is another name of `rope_parameters`: never None, and its type is `rope_type`. Code
that tells scaled models by `rope_scaling is None` and then reads `rope_scaling["type"]` fails.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import Source

_NAME = "_rope_scaling"
_FUNCTION = f'''
def {_NAME}(config):
    """Return what transformers 4 calls rope_scaling: None without scaling, and its type as "type"."""
    given = config.rope_scaling or {{}}
    kind = given.get("type", given.get("rope_type", "default"))
    return None if kind == "default" else {{**given, "type": kind}}
'''


def edits(sources: Sources) -> Edits:
    """Put a function in the place of the attribute, in a file that reads its "type"."""
    source = sources.modeling
    uses = [use for use in source.find(ast.Attribute) if _is_read(source, use)]
    if any(_reads_type(source, use) for use in uses) and f"def {_NAME}(" not in source.text:
        for use in uses:
            yield source.replaced(use, f"{_NAME}({source.before_dot(use)})")
        yield source.below_imports(_FUNCTION)


def _is_read(source: Source, use: ast.Attribute) -> bool:
    config = source.code(use.value).rpartition(".")[2]
    return use.attr == "rope_scaling" and isinstance(use.ctx, ast.Load) and config == "config"


def _reads_type(source: Source, use: ast.Attribute) -> bool:
    around = next(source.parents(use), None)
    return isinstance(around, ast.Subscript) and source.code(around.slice).strip("'\"") == "type"


RULE = Rule(
    id="rope-type",
    releases="5.0 and later",
    cause="config.rope_scaling is never None in 5.x, and calls its type rope_type: code that reads its type fails.",
    before=(
        "import torch\n"
        "\n"
        "class Attention(nn.Module):\n"
        "    def __init__(self, config):\n"
        "        if config.rope_scaling is not None:\n"
        '            self.kind = config.rope_scaling["type"]\n'
    ),
    after=(
        "import torch\n"
        "\n" + _FUNCTION + "\n"
        "class Attention(nn.Module):\n"
        "    def __init__(self, config):\n"
        f"        if {_NAME}(config) is not None:\n"
        f'            self.kind = {_NAME}(config)["type"]\n'
    ),
    signs=("KeyError: 'type'",),
    edits=edits,
)
