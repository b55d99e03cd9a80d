"""Take `cache_position` out of the signature of `forward`, not out of the computation.

From 5.13 at the latest `generate` no longer knows `cache_position`. For a model that names it as an
argument it still makes one, warns, and says that it won't in a later release. Releases that pass it
pass it by name, so that it arrives among the keyword arguments; where it is missing the model
computes it already.
"""

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import UnrecognisedError, arguments, method

_NAME = "cache_position"


def edits(sources: Sources) -> Edits:
    """Pop it from the keyword arguments of each model's `forward`."""
    source = sources.modeling
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
        yield source.first_in(forward, f'{_NAME} = {forward.args.kwarg.arg}.pop("{_NAME}", None)')


RULE = Rule(
    id="cache-position",
    releases="5.13 and later",
    cause="generate() warns that it will stop passing cache_position to models that name it as an argument.",
    before=(
        "from transformers import PreTrainedModel\n"
        "\n"
        "class Model(PreTrainedModel):\n"
        "    def forward(self, input_ids=None, cache_position=None, **kwargs):\n"
        "        return self.layers(input_ids, cache_position)\n"
    ),
    after=(
        "from transformers import PreTrainedModel\n"
        "\n"
        "class Model(PreTrainedModel):\n"
        "    def forward(self, input_ids=None, **kwargs):\n"
        '        cache_position = kwargs.pop("cache_position", None)\n'
        "        return self.layers(input_ids, cache_position)\n"
    ),
    trf=("TRF044",),
    edits=edits,
)
