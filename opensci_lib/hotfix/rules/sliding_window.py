"""Keep a sliding window out of the configuration of a model that does not use one.

Since 4.56 `generate` gives a model whose configuration has a `sliding_window` a cache that forgets what is beyond it.
The switch `use_sliding_window` is the model's own, and nobody asks for it.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import UnrecognisedError, arguments, dotted, method

_NAME, _SWITCH = "sliding_window", "use_sliding_window"


def edits(sources: Sources) -> Edits:
    """Let the configuration hold the window only where it is switched on, as the library's own configurations do."""
    source = sources.configuration
    if source is None:
        return
    for owner in source.classes.values():
        initializer = method(owner, "__init__")
        if initializer is None or not {_NAME, _SWITCH} <= arguments(initializer).keys():
            continue
        for line in source.find(ast.Assign, within=initializer):
            if dotted(line.targets[0]) != f"self.{_NAME}" or dotted(line.value) != _NAME:
                continue
            for code in sources.code.values():
                if any(use.attr == _NAME for use in code.find(ast.Attribute)) and _SWITCH not in code.text:
                    raise UnrecognisedError(line, f"the model reads {_NAME} without asking for {_SWITCH}")
            yield source.replaced(line.value, f"{_NAME} if {_SWITCH} else None")


RULE = Rule(
    id="sliding-window",
    target="configuration",
    releases="4.56 and later",
    cause=(
        "generate() gives a model a cache that forgets what is beyond config.sliding_window, also where "
        "use_sliding_window is off."
    ),
    before=(
        "class Config(PretrainedConfig):\n"
        "    def __init__(self, use_sliding_window=False, sliding_window=4096, **kwargs):\n"
        "        self.use_sliding_window = use_sliding_window\n"
        "        self.sliding_window = sliding_window\n"
    ),
    after=(
        "class Config(PretrainedConfig):\n"
        "    def __init__(self, use_sliding_window=False, sliding_window=4096, **kwargs):\n"
        "        self.use_sliding_window = use_sliding_window\n"
        "        self.sliding_window = sliding_window if use_sliding_window else None\n"
    ),
    edits=edits,
)
