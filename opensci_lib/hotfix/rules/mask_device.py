"""Take the mask's device from the positions.

4.52 calls the builder of the mask for a static cache without its argument `device`; earlier releases and
the model itself pass it by name, so that it arrives among the keyword arguments.
"""

import libcst as cst

from opensci_lib.hotfix.rule import Rule, Sources
from opensci_lib.hotfix.tree import UnrecognisedError, after_docstring, method, replace, statements

_BUILDER = "_prepare_4d_causal_attention_mask_with_cache_position"


def rewrite(sources: Sources) -> cst.Module | None:
    """Make `device` a local name of the builder instead of an argument."""
    tree = sources.modeling
    changes: dict = {}
    for owner in tree.classes.values():
        builder = method(owner, _BUILDER)
        named = {} if builder is None else {parameter.name.value: parameter for parameter in builder.params.params}
        if builder is None or "device" not in named:
            continue
        if "cache_position" not in named or builder.params.star_kwarg is None:
            raise UnrecognisedError(builder, f"{_BUILDER} takes other arguments than in transformers 4.48")
        added = statements("device = cache_position.device\n", tree.module)
        changes[named["device"]] = None
        changes[builder.body] = lambda body, added=added: body.with_changes(body=after_docstring(body, added))
    return replace(tree.module, changes) if changes else None


RULE = Rule(
    id="mask-device",
    target="modeling",
    releases="4.52",
    cause="generate() calls the builder of the mask for a static cache without its argument device.",
    before=(
        "class Model(Base):\n"
        f"    def {_BUILDER}(mask, device, cache_position, **kwargs):\n"
        "        return mask.to(device)\n"
    ),
    after=(
        "class Model(Base):\n"
        f"    def {_BUILDER}(mask, cache_position, **kwargs):\n"
        "        device = cache_position.device\n"
        "        return mask.to(device)\n"
    ),
    trf=(),
    rewrite=rewrite,
)
