"""Take `cache_position` out of the signature of `forward`, not out of the computation.

From 5.13 at the latest `generate` no longer knows `cache_position`. For a model that names it as an
argument it still makes one, warns, and says that it won't in a later release. Releases that pass it
pass it by name, so that it arrives among the keyword arguments; where it is missing the model
computes it already.
"""

import libcst as cst
import libcst.matchers as m

from opensci_lib.hotfix.rule import Rule, Sources
from opensci_lib.hotfix.tree import UnrecognisedError, after_docstring, method, replace, statements

_NAME = "cache_position"
_OPTIONAL = m.Param(name=m.Name(_NAME), default=m.Name("None"))


def rewrite(sources: Sources) -> cst.Module | None:
    """Pop it from the keyword arguments of each model's `forward`."""
    tree = sources.modeling
    changes: dict = {}
    for name, owner in tree.classes.items():
        forward = method(owner, "forward")
        if forward is None or not any(base.endswith("PreTrainedModel") for base in tree.ancestry(name)):
            continue
        parameters = [*forward.params.params, *forward.params.kwonly_params]
        named = [parameter for parameter in parameters if parameter.name.value == _NAME]
        if not named:
            continue
        if not m.matches(named[0], _OPTIONAL) or named[0] not in forward.params.params:
            raise UnrecognisedError(named[0], f"{_NAME} is no optional positional argument")
        if forward.params.star_kwarg is None:
            raise UnrecognisedError(named[0], "forward takes no other keyword arguments")
        keywords = forward.params.star_kwarg.name.value
        added = statements(f'{_NAME} = {keywords}.pop("{_NAME}", None)\n', tree.module)
        changes[named[0]] = None
        changes[forward.body] = lambda body, added=added: body.with_changes(body=after_docstring(body, added))
    return replace(tree.module, changes) if changes else None


RULE = Rule(
    id="cache-position",
    target="modeling",
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
    rewrite=rewrite,
)
