import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised

RULE = "position-ids"
MADE = """\
        if attention_mask is not None and position_ids is None:
            position_ids = attention_mask.long().cumsum(-1) - 1
            if past_key_values:
                position_ids = position_ids[:, -input_ids.shape[1] :]
        return {"input_ids": input_ids, "position_ids": position_ids}
"""
CUT = """\
        if position_ids is not None:  # since transformers 5.3 those of all tokens are given
            position_ids = position_ids[:, -input_ids.shape[1] :]
"""
FROM_KWARGS = """\
class ForCausalLM:
    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **kwargs):
        input_ids = input_ids[:, -1:]
        position_ids = {taken}
"""
AS_ARGUMENT = """\
class ForCausalLM:
    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, position_ids=None, **kwargs):
        input_ids = input_ids[:, -1:]
"""


@pytest.mark.parametrize(
    "before",
    [
        FROM_KWARGS.format(taken='kwargs.get("position_ids", None)'),
        FROM_KWARGS.format(taken="kwargs.pop('position_ids', None)"),
        AS_ARGUMENT,
    ],
)
def test_they_are_cut_before_the_model_makes_its_own(before):
    check_transformed(RULE, before + MADE, before + CUT + MADE)


@pytest.mark.parametrize(
    "source",
    [
        AS_ARGUMENT + "        return {}\n",
        AS_ARGUMENT + "        if past:\n            position_ids = position_ids[..., -1:]\n" + MADE,
        FROM_KWARGS.format(taken="attention_mask.cumsum(-1)") + MADE,
        AS_ARGUMENT.replace("prepare_inputs_for_generation", "forward") + MADE,
        "def prepare_inputs_for_generation(input_ids, position_ids):\n    return position_ids\n",
    ],
)
def test_left_alone(source):
    check_noop(RULE, source)


def test_tokens_that_are_cut_below_are_named():
    source = AS_ARGUMENT.replace("        input_ids = input_ids[:, -1:]\n", "") + MADE
    late = source.replace("        return", "        input_ids = input_ids[:, -1:]\n        return")
    check_unrecognised(RULE, late, 3)
