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
        ("past = past.to_legacy_cache()\n",
         'past = (past.to_legacy_cache() if hasattr(past, "to_legacy_cache") else past)\n'),
        ("past = DynamicCache.from_legacy_cache(past)\n",
         'past = (DynamicCache.from_legacy_cache(past) if hasattr(DynamicCache, "from_legacy_cache") '
         "else DynamicCache(past))\n"),
    ],
)  # fmt: skip
def test_each_is_written_in_a_way_that_releases_share(before, after):
    check_transformed(RULE, before, after)


IMPORT = "import torch\n"
FUNCTION = '''

def _max_length(cache):
    """Return how many tokens a cache can hold, or None without a limit, of which later releases say -1."""
    length = cache.get_max_length() if hasattr(cache, "get_max_length") else cache.get_max_cache_shape()
    return length if length is not None and length > 0 else None
'''


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("n = past.get_max_length()\n", "n = _max_length(past)\n"),
        ("n = past.get_max_length() if hasattr(past, 'get_max_length') else past.get_max_cache_shape()\n",
         "n = _max_length(past)\n"),
        ("n = past.get_max_length() if hasattr(past, 'get_max_length') else None\n",
         "n = _max_length(past) if hasattr(past, 'get_max_length') else None\n"),
        ("if past.get_max_length() is not None:\n    n = a.b.get_max_length()\n",
         "if _max_length(past) is not None:\n    n = _max_length(a.b)\n"),
    ],
)  # fmt: skip
def test_a_length_is_asked_for_by_a_function(before, after):
    check_transformed(RULE, IMPORT + before, IMPORT + FUNCTION + after)


@pytest.mark.parametrize(("given", "expected"), [(None, None), (-1, None), (0, None), (7, 7)])
@pytest.mark.parametrize("name", ["get_max_length", "get_max_cache_shape"])
def test_what_the_function_says(name, given, expected):
    cache = type("Cache", (), {name: lambda self: given})()
    names: dict = {}
    exec(FUNCTION, names)
    assert names["_max_length"](cache) == expected


@pytest.mark.parametrize(
    "source",
    [
        "n = past.get_seq_length()\n",
        "n = past.get_max_cache_shape()\n",
        "n = past.get_max_cache_shape() if past else 0\n",
        # a class of the file's own
        "class Own:\n    def length(self):\n        return self.seen_tokens + self.get_max_length()\n",
    ],
)
def test_left_alone(source):
    check_noop(RULE, source)


def test_written_to_is_refused():
    check_unrecognised(RULE, "def f(past):\n    past.seen_tokens = 1\n", 2)
