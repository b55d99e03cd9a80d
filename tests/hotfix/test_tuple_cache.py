import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised

RULE = "tuple-cache"
MODEL = """\
from transformers.modeling_utils import PreTrainedModel
{function}class Base(PreTrainedModel):
    def length(self, past_key_values):
        return {use}

class Model(Base):
    def forward(self, input_ids, past_key_values=None):
{line}        return self.length(past_key_values)

class ForCausalLM(Base):
    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, **kwargs):
        \"\"\"Say what forward is given.\"\"\"
{line}        if past_key_values:
            input_ids = input_ids[:, -1:]

    def reorder(self, past_key_values):
        return past_key_values
"""
FUNCTION = '''

def _as_tuples(cache):
    """Return None for an empty cache of transformers, which later releases give a model that takes tuples."""
    if not hasattr(cache, "get_seq_length"):
        return cache
    if cache.get_seq_length() > 0:
        raise TypeError(f"This model takes its cache as tuples of tensors, not as {type(cache).__name__}.")
    return None
'''
LINE = "        past_key_values = _as_tuples(past_key_values)\n"
INDEXED = "past_key_values[0][0].shape[2]"


def test_every_way_in_gets_none_for_an_empty_cache():
    check_transformed(
        RULE,
        MODEL.format(function="", line="", use=INDEXED),
        MODEL.format(function=FUNCTION, line=LINE, use=INDEXED),
    )


@pytest.mark.parametrize(
    "use", ["torch.cat([past_key_value[0], x])", "self.layer_past[1]", "past_key_values[0] if past_key_values else 0"]
)
def test_other_ways_to_index_it(use):
    check_transformed(
        RULE, MODEL.format(function="", line="", use=use), MODEL.format(function=FUNCTION, line=LINE, use=use)
    )


def test_a_file_without_a_model_to_convert_it_in_is_refused():
    check_unrecognised(RULE, "class Layer:\n    def forward(self, past_key_value):\n        past_key_value[0]\n", 3)


@pytest.mark.parametrize(
    "use",
    [
        "0 if isinstance(past_key_values, Cache) else past_key_values[0][0].shape[2]",
        "past_key_values.get_seq_length()",
        "past_key_values[0][0] if past_key_values.get_seq_length(0) else 0",
        "outputs[0]",
    ],
)
def test_left_alone(use):
    check_noop(RULE, MODEL.format(function="", line="", use=use))


def test_what_it_becomes():
    class Cache:
        def __init__(self, length):
            self.get_seq_length = lambda: length

    names: dict = {}
    exec(FUNCTION, names)
    tuples = (("key", "value"),)
    assert names["_as_tuples"](None) is None
    assert names["_as_tuples"](tuples) is tuples
    assert names["_as_tuples"](Cache(0)) is None
    with pytest.raises(TypeError, match="tuples of tensors, not as Cache"):
        names["_as_tuples"](Cache(3))
