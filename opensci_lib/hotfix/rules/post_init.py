"""Let a model end its construction with `post_init()`.

From 5.0 on it is what notes which weights are tied, and loading a model that never called it fails. What it did
before, drawing first weights and tying them, is undone by what the checkpoint holds.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import Function, Source, UnrecognisedError, method

_CALL = "post_init"


def edits(sources: Sources) -> Edits:
    """Call it at the end of the last `__init__` of each model that has one and never calls it."""
    source = sources.modeling
    for name, owner in source.classes.items():
        initializer = method(owner, "__init__")
        if initializer is None or _is_built_upon(source, name) or not _lacks_call(source, name):
            continue
        if source.find(ast.Return, within=initializer):
            raise UnrecognisedError(owner, f"{name} has no post_init(), and its __init__ returns from within")
        me = initializer.args.args[0].arg
        yield source.after(initializer.body[-1], f"{me}.{_CALL}()  # 5.0 and later cannot load it otherwise")


def _lacks_call(source: Source, name: str) -> bool:
    """Say whether a class derives from the library's PreTrainedModel alone and no `__init__` of it makes the call."""
    ancestry = source.ancestry(name)
    foreign = [base for base in ancestry if base not in source.classes]
    if not any(base.endswith("PreTrainedModel") for base in foreign):
        return False
    own = [method(source.classes[base], "__init__") for base in ancestry if base in source.classes]
    return not any(_calls(source, initializer) for initializer in own if initializer)


def _calls(source: Source, initializer: Function) -> bool:
    calls = source.find(ast.Call, within=initializer)
    return any(isinstance(call.func, ast.Attribute) and call.func.attr == _CALL for call in calls)


def _is_built_upon(source: Source, name: str) -> bool:
    """Say whether another class goes on building where this one's `__init__` ends."""
    return any(
        other != name and name in source.ancestry(other) and method(owner, "__init__")
        for other, owner in source.classes.items()
    )


_EXAMPLE = """\
from transformers import PreTrainedModel

class ForCausalLM(PreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
"""

RULE = Rule(
    id="post-init",
    releases="5.0 and later",
    cause="A model that does not end its __init__ with post_init() lacks what loading asks it for from 5.0 on.",
    before=_EXAMPLE,
    after=_EXAMPLE + "        self.post_init()  # 5.0 and later cannot load it otherwise\n",
    signs=("object has no attribute 'all_tied_weights_keys'",),
    edits=edits,
)
