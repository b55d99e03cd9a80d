"""Take `cache_position` out of the signature of `forward`, not out of the computation.

From 5.13 at the latest `generate` no longer knows `cache_position`. For a model that names it as an
argument it still makes one, warns, and says that it won't in a later release. Releases that pass it
pass it by name, so that it arrives among the keyword arguments; where it is missing the model
computes it already.

From 5.4 on `generate` and the native models have none, and nothing moves one along that a caller started: it
would place every token where the first one stood. There it is ignored, as by native models.
"""

import ast

from opensci_lib.hotfix.edit import Edit
from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import Function, Source, UnrecognisedError, arguments, dotted, method

_NAME = "cache_position"
_MIXIN = ("transformers.GenerationMixin", "transformers.generation.GenerationMixin")
_IMPORT = "from transformers.generation import GenerationMixin"
_LINES = f"""\
{_NAME} = {{kwargs}}.pop("{_NAME}", None)
if not hasattr({{mixin}}, "_get_initial_{_NAME}"):
    {_NAME} = None  # generate() does not move it along from transformers 5.4 on: a caller's may be old
"""


def edits(sources: Sources) -> Edits:
    """Pop it from the keyword arguments of each model's `forward`, and use it where the release moves it along.

    A `forward` that only hands it on hands it on with the other keyword arguments.
    """
    source = sources.modeling
    mixin = next((name for full in _MIXIN if (name := source.name_of(full))), None)
    changed = False
    for name, owner in source.classes.items():
        forward = method(owner, "forward")
        if forward is None or not any(base.endswith("PreTrainedModel") for base in source.ancestry(name)):
            continue
        named = [argument for argument in [*forward.args.args, *forward.args.kwonlyargs] if argument.arg == _NAME]
        if not named:
            continue
        default = source.default(forward, _NAME) if _NAME in arguments(forward) else None
        if default is None or source.code(default) != "None":
            raise UnrecognisedError(named[0], f"{_NAME} is no optional positional argument")
        if forward.args.kwarg is None:
            raise UnrecognisedError(named[0], "forward takes no other keyword arguments")
        yield source.without_argument(forward, _NAME)
        if (handed := _handed_on(source, forward)) is not None:
            yield from handed
            continue
        lines = _LINES.format(kwargs=forward.args.kwarg.arg, mixin=mixin or "GenerationMixin")
        yield source.first_in(forward, lines)
        changed = True
    if changed and mixin is None:
        yield source.below_imports(_IMPORT)


def _handed_on(source: Source, forward: Function) -> list[Edit] | None:
    """Return what takes `cache_position` out of calls that hand it on by name beside all keyword arguments.

    None where the function does anything else with it.
    """
    names = [node for node in source.find(ast.Name, within=forward) if node.id == _NAME]
    calls = [call for call in source.find(ast.Call, within=forward) if _given(call) is not None]
    kwargs = forward.args.kwarg.arg if forward.args.kwarg else ""
    every = all(any(item.arg is None and dotted(item.value) == kwargs for item in call.keywords) for call in calls)
    if not every or not calls or len(names) != len(calls):
        return None
    return [source.without_item(item) for call in calls if (item := _given(call))]


def _given(call: ast.Call) -> ast.keyword | None:
    """Return the argument `cache_position=cache_position` of a call."""
    found = [item for item in call.keywords if item.arg == _NAME and dotted(item.value) == _NAME]
    return found[0] if found else None


RULE = Rule(
    id="cache-position",
    releases="5.4 and later",
    cause=(
        "generate() warns that it will stop passing cache_position to models that name it as an argument. What a "
        "caller starts, no release from 5.4 on moves along, and every token gets the place of the first."
    ),
    before=(
        "from transformers import GenerationMixin, PreTrainedModel\n"
        "\n"
        "class Model(PreTrainedModel):\n"
        "    def forward(self, input_ids=None, cache_position=None, **kwargs):\n"
        "        return self.layers(input_ids, cache_position)\n"
    ),
    after=(
        "from transformers import GenerationMixin, PreTrainedModel\n"
        "\n"
        "class Model(PreTrainedModel):\n"
        "    def forward(self, input_ids=None, **kwargs):\n"
        + "".join(
            f"        {line}\n" for line in _LINES.format(kwargs="kwargs", mixin="GenerationMixin").splitlines()
        )
        + "        return self.layers(input_ids, cache_position)\n"
    ),
    trf=("TRF044",),
    edits=edits,
)
