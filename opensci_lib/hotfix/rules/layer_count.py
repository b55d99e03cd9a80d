"""Say how many layers the model has by the name that `generate` asks for.

From 4.56 on a cache is made by `config.num_hidden_layers`. A configuration that calls it otherwise has an attribute
of that name once its `attribute_map` says so.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import UnrecognisedError, dotted, method

_ASKED, _MAP = "num_hidden_layers", "attribute_map"
_NAMES = ("num_layers", "n_layer", "n_layers")


def edits(sources: Sources) -> Edits:
    """Write an `attribute_map` where the configuration has one of the other names."""
    source = sources.configuration
    for owner in source.classes.values() if source else ():
        initializer = method(owner, "__init__")
        if source is None or initializer is None or _ASKED in source.code(owner):
            continue
        lines = source.find(ast.Assign, within=initializer)
        own = {dotted(target).removeprefix("self.") for line in lines for target in line.targets}
        name = next((name for name in _NAMES if name in own), None)
        if name is None:
            continue
        if _MAP in source.code(owner):
            raise UnrecognisedError(owner, f"its {_MAP} does not say what {_ASKED} is")
        yield source.first_in(owner, f'{_MAP} = {{"{_ASKED}": "{name}"}}\n')


RULE = Rule(
    id="layer-count",
    target="configuration",
    releases="4.56 and later",
    cause="generate() makes the cache by config.num_hidden_layers, which some configurations call otherwise.",
    before=(
        "class Config(PretrainedConfig):\n"
        "    def __init__(self, num_layers=2):\n"
        "        self.num_layers = num_layers\n"
    ),
    after=(
        "class Config(PretrainedConfig):\n"
        '    attribute_map = {"num_hidden_layers": "num_layers"}\n'
        "    def __init__(self, num_layers=2):\n"
        "        self.num_layers = num_layers\n"
    ),
    signs=("has no attribute 'num_hidden_layers'",),
    edits=edits,
)
