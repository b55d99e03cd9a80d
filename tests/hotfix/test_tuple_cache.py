import pytest

from tests.hotfix.specification import check_noop, check_unrecognised

RULE = "tuple-cache"


@pytest.mark.parametrize(
    "source",
    [
        "if past_key_values is not None:\n    length = past_key_values[0][0].shape[2]\n",
        "if past_key_value is not None:\n    key = torch.cat([past_key_value[0], key], dim=2)\n",
        "for i in range(2):\n    past = past_key_values[i] if past_key_values is not None else None\n",
    ],
)
def test_a_cache_that_is_indexed(source):
    check_unrecognised(RULE, source, 2)


@pytest.mark.parametrize(
    "source",
    [
        "if isinstance(past_key_values, Cache):\n    n = 0\nelse:\n    n = past_key_values[0][0].shape[2]\n",
        "length = 0 if isinstance(past_key_values, Cache) else past_key_values[0][0].shape[2]\n",
        "length = past_key_values.get_seq_length()\n",
        "first = outputs[0]\n",
    ],
)
def test_left_alone(source):
    check_noop(RULE, source)
