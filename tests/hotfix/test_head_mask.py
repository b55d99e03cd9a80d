from types import SimpleNamespace

import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised

RULE = "head-mask"
MODEL = """\
import torch
{function}class Model:
    def forward(self, head_mask=None):
        masks = {call}
"""
FUNCTION = '''

def _head_mask(model, mask, layers):
    """Return a mask of attention heads for each layer, which is None from transformers 5 on."""
    if hasattr(model, "get_head_mask"):
        return model.get_head_mask(mask, layers)
    if mask is not None:
        raise NotImplementedError("transformers 5 has no masks of attention heads.")
    return [None] * layers
'''


def test_a_function_takes_the_place_of_the_method():
    check_transformed(
        RULE,
        MODEL.format(function="", call="self.get_head_mask(head_mask, self.config.n_layer)"),
        MODEL.format(function=FUNCTION, call="_head_mask(self, head_mask, self.config.n_layer)"),
    )


def test_what_the_function_says():
    names: dict = {}
    exec(FUNCTION, names)
    earlier = SimpleNamespace(get_head_mask=lambda mask, layers: [mask] * layers)
    assert names["_head_mask"](earlier, 7, 2) == [7, 7]
    assert names["_head_mask"](SimpleNamespace(), None, 3) == [None] * 3
    with pytest.raises(NotImplementedError, match="no masks of attention heads"):
        names["_head_mask"](SimpleNamespace(), 7, 2)


def test_a_method_of_its_own_is_left_alone():
    own = "    def get_head_mask(self, mask, layers): ...\n"
    check_noop(RULE, MODEL.format(function="", call="self.get_head_mask(head_mask, 2)") + own)
    check_noop(RULE, MODEL.format(function="", call="other.get_head_mask(head_mask, 2)"))


@pytest.mark.parametrize("given", ["head_mask", "head_mask, 2, True", "head_mask, num_hidden_layers=2"])
def test_other_arguments_are_named(given):
    check_unrecognised(RULE, MODEL.format(function="", call=f"self.get_head_mask({given})"), 4)
