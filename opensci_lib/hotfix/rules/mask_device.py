"""Take the mask's device from the positions.

4.52 calls the builder of the mask for a static cache without its argument `device`; earlier releases and
the model itself pass it by name, so that it arrives among the keyword arguments.
"""

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import UnrecognisedError, arguments, method

_BUILDER = "_prepare_4d_causal_attention_mask_with_cache_position"


def edits(sources: Sources) -> Edits:
    """Make `device` a local name of the builder instead of an argument."""
    source = sources.modeling
    for owner in source.classes.values():
        builder = method(owner, _BUILDER)
        if builder is None or "device" not in arguments(builder):
            continue
        if "cache_position" not in arguments(builder) or builder.args.kwarg is None:
            raise UnrecognisedError(builder, f"{_BUILDER} takes other arguments than in transformers 4.48")
        yield source.without_argument(builder, "device")
        yield source.first_in(builder, "device = cache_position.device")


RULE = Rule(
    id="mask-device",
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
    edits=edits,
)
