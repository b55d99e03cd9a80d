"""Keep the cache whole for a model that does not use a sliding window, or does so by its mask.

Since 4.56 `generate` gives a model whose configuration has a `sliding_window` a cache that forgets what is beyond it.
The switch `use_sliding_window` is the model's own, and nobody asks for it. A model that knows no layers of different
types masks what is beyond the window in a whole cache, and is told from others by `layer_types`.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import Function, Source, UnrecognisedError, arguments, dotted, method

_NAME, _SWITCH = "sliding_window", "use_sliding_window"
_TYPES, _LAYERS = "layer_types", "num_hidden_layers"
#: What a model has that knows which of its layers slide.
_KNOWING = (_TYPES, "create_sliding_window_causal_mask")


def edits(sources: Sources) -> Edits:
    """Let the configuration hold the window only where it is switched on, as the library's own configurations do."""
    source = sources.configuration
    if source is None:
        return
    for owner in source.classes.values():
        initializer = method(owner, "__init__")
        if initializer is None or _NAME not in arguments(initializer):
            continue
        for line in source.find(ast.Assign, within=initializer):
            if dotted(line.targets[0]) != f"self.{_NAME}" or dotted(line.value) != _NAME:
                continue
            if _SWITCH not in arguments(initializer):
                if _masks_itself(source, sources.code):
                    yield from _with_types(source, initializer, line)
                continue
            for code in sources.code.values():
                if any(use.attr == _NAME for use in code.find(ast.Attribute)) and _SWITCH not in code.text:
                    raise UnrecognisedError(line, f"the model reads {_NAME} without asking for {_SWITCH}")
            yield source.replaced(line.value, f"{_NAME} if {_SWITCH} else None")


def _masks_itself(configuration: Source, code: dict[str, Source]) -> bool:
    """Say whether the model reads the window, and neither it nor its configuration knows what layers slide."""
    reads = any(use.attr == _NAME for source in code.values() for use in source.find(ast.Attribute))
    texts = [source.text for source in (configuration, *code.values())]
    return reads and not any(name in text for name in _KNOWING for text in texts)


def _with_types(source: Source, initializer: Function, line: ast.Assign) -> Edits:
    if _LAYERS not in arguments(initializer):
        raise UnrecognisedError(line, f"the model masks the window itself, and __init__ takes no {_LAYERS}")
    yield source.after(line, f'self.{_TYPES} = ["full_attention"] * {_LAYERS}  # the model masks the window itself')


RULE = Rule(
    id="sliding-window",
    target="configuration",
    releases="4.56 and later",
    cause=(
        "generate() gives a model a cache that forgets what is beyond config.sliding_window, also where "
        "use_sliding_window is off, or where the model masks a whole cache itself."
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
