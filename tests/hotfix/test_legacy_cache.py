import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised

RULE = "legacy-cache"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("n = past.get_usable_length(n, self.layer_idx)\n", "n = past.get_seq_length(self.layer_idx)\n"),
        ("n = past.get_usable_length(n, layer_idx=0)\n", "n = past.get_seq_length(0)\n"),
        ("n = past.get_usable_length(n)\n", "n = past.get_seq_length()\n"),
        ("n = past.seen_tokens + 1\n", "n = past.get_seq_length() + 1\n"),
        ("n = past.get_max_length()\n",
         'n = (past.get_max_length() if hasattr(past, "get_max_length") else None)\n'),
        ("n = past.get_max_length() if hasattr(past, 'get_max_length') else past.get_max_cache_shape()\n",
         "n = past.get_max_length() if hasattr(past, 'get_max_length') else "
         "(past.get_max_cache_shape() if (past.get_max_cache_shape() or 0) > 0 else None)\n"),
        ("past = past.to_legacy_cache()\n",
         'past = (past.to_legacy_cache() if hasattr(past, "to_legacy_cache") else past)\n'),
        ("past = DynamicCache.from_legacy_cache(past)\n",
         'past = (DynamicCache.from_legacy_cache(past) if hasattr(DynamicCache, "from_legacy_cache") '
         "else DynamicCache(past))\n"),
    ],
)  # fmt: skip
def test_each_is_written_in_a_way_that_releases_share(before, after):
    check_transformed(RULE, before, after)


@pytest.mark.parametrize(
    "source",
    [
        "n = past.get_seq_length()\n",
        "n = past.get_max_cache_shape()\n",
        "n = past.get_max_length() if hasattr(past, 'get_max_length') else None\n",
        # a class of the file's own
        "class Own:\n    def length(self):\n        return self.seen_tokens + self.get_max_length()\n",
    ],
)
def test_left_alone(source):
    check_noop(RULE, source)


def test_written_to_is_refused():
    check_unrecognised(RULE, "def f(past):\n    past.seen_tokens = 1\n", 2)
