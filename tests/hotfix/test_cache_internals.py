import pytest

from tests.hotfix.specification import check_noop, check_unrecognised

RULE = "cache-internals"
BEFORE = """\
from transformers.cache_utils import DynamicCache

class PrefixCache(DynamicCache):
    def __init__(self, prefix):
        super().__init__()
        self.key_cache = prefix
"""


@pytest.mark.parametrize(
    "source",
    [
        BEFORE,
        BEFORE.replace("self.key_cache", "self.value_cache"),
        BEFORE.replace("self.key_cache = prefix", "self._seen_tokens = 0"),
        BEFORE.replace("self.key_cache = prefix", "self.key_cache: list = prefix"),
    ],
)
def test_a_subclass_that_fills_its_lists(source):
    check_unrecognised(RULE, source, 6)


def test_a_subclass_of_a_subclass():
    check_unrecognised(RULE, BEFORE.replace("class Prefix", "class Own(DynamicCache): ...\nclass Prefix").replace(
        "PrefixCache(DynamicCache)", "PrefixCache(Own)"), 7)  # fmt: skip


@pytest.mark.parametrize("field", ["key_cache", "value_cache", "_seen_tokens"])
def test_reaching_in_from_outside(field):
    source = f"class Attention:\n    def forward(self, cache):\n        cache.{field} = 1\n"
    check_unrecognised(RULE, source, 3)


@pytest.mark.parametrize(
    "source",
    [
        BEFORE.replace("self.key_cache = prefix", "self.prefix = prefix"),
        # a class of the file's own, which no release changes
        BEFORE.replace("(DynamicCache)", ""),
        "def forward(self, past_key_values):\n    return past_key_values.get_seq_length()\n",
    ],
)
def test_left_alone(source):
    check_noop(RULE, source)
