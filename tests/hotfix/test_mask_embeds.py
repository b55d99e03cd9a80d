import pytest

from tests.hotfix.specification import check_noop, check_transformed

RULE = "mask-embeds"
FUNCTION = '''
def _with_embeds(builder, embeds, **kwargs):
    """Call a mask builder of transformers, which renamed input_embeds to inputs_embeds and lost cache_position."""
    known = inspect.signature(builder).parameters
    if "cache_position" not in known:
        kwargs.pop("cache_position", None)
    return builder(**{"inputs_embeds" if "inputs_embeds" in known else "input_embeds": embeds}, **kwargs)
'''


@pytest.mark.parametrize("name", ["input_embeds", "inputs_embeds"])
def test_the_builder_is_called_by_its_own_name(name):
    check_transformed(
        RULE,
        "import inspect\nfrom transformers.masking_utils import create_causal_mask\n\n"
        f"mask = create_causal_mask(config=config, {name}=x, attention_mask=None)\n",
        f"import inspect\nfrom transformers.masking_utils import create_causal_mask\n\n{FUNCTION}\n"
        "mask = _with_embeds(create_causal_mask, config=config, embeds=x, attention_mask=None)\n",
    )


def test_what_the_builder_does_not_take_is_left_out():
    scope: dict = {}
    exec("import inspect\n" + FUNCTION, scope)
    assert scope["_with_embeds"](lambda inputs_embeds: inputs_embeds, "x", cache_position=3) == "x"
    old = lambda input_embeds, cache_position: (input_embeds, cache_position)  # noqa: E731
    assert scope["_with_embeds"](old, "x", cache_position=3) == ("x", 3)


def test_the_function_finds_the_name():
    scope: dict = {}
    exec("import inspect\n" + FUNCTION, scope)
    for builder in (
        lambda config, input_embeds: (config, input_embeds),
        lambda inputs_embeds, config: (config, inputs_embeds),
    ):
        assert scope["_with_embeds"](builder, "x", config="c") == ("c", "x")


@pytest.mark.parametrize(
    "source",
    [
        "import torch\nmask = create_causal_mask(input_embeds=x)\n",
        "from .own import create_causal_mask\nmask = create_causal_mask(input_embeds=x)\n",
        "from transformers.masking_utils import create_causal_mask\nmask = create_causal_mask(config, x)\n",
    ],
)
def test_left_alone(source):
    check_noop(RULE, source)
