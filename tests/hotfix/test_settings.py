import json

import pytest

from opensci_lib.hotfix.edit import apply
from opensci_lib.hotfix.settings import Settings


def with_value(text: str, *path: str, value: object) -> str:
    result = apply(text, [("rule", Settings(text).set(*path, value=value))])
    expected = json.loads(text)
    inner = expected
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert json.loads(result) == expected
    assert set(json.loads(result)) == set(expected)
    return result


LAID_OUT = """\
{
    "a": 1e-05,
    "b": {
        "c": "x",
        "d": [1,
              2.50]
      },
    "e" : -0.0
  }"""


@pytest.mark.parametrize(
    ("path", "value", "old", "new"),
    [
        (["a"], "y", "1e-05", '"y"'),
        (["b", "c"], None, '"x"', "null"),
        (["b", "f"], True, "2.50]", '2.50],\n        "f": true'),
        (["g"], "ü", "-0.0", '-0.0,\n    "g" : "ü"'),
        (["g"], ["p", "q"], "-0.0", '-0.0,\n    "g" : [\n        "p",\n        "q"\n    ]'),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_nothing_else_changes(path, value, old, new, newline):
    result = with_value(LAID_OUT.replace("\n", newline), *path, value=value)
    assert result == LAID_OUT.replace(old, new).replace("\n", newline)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", '{"k": "v"}'),
        ("{ }\n", '{"k": "v" }\n'),
        ('{"a": 1}', '{"a": 1, "k": "v"}'),
        ('{"a":1,"b":2}', '{"a":1,"b":2,"k":"v"}'),
        ('{\n\t"a": 1\n}\n', '{\n\t"a": 1,\n\t"k": "v"\n}\n'),
        ('\n {"a": {"k": [{"}": "{"}]}}', '\n {"a": {"k": [{"}": "{"}]}, "k": "v"}'),
        (r'{"\u006b": 1}', r'{"\u006b": "v"}'),
        (r'{"a": "\"k\": \ud800 \/"}', r'{"a": "\"k\": \ud800 \/", "k": "v"}'),
        ('{"a:": NaN, "b": -Infinity}', None),
    ],
)
def test_a_key_is_set_or_follows_the_last(text, expected):
    if expected is None:
        settings = Settings(text)
        assert apply(text, [("rule", settings.set("k", value="v"))]) == '{"a:": NaN, "b": -Infinity, "k": "v"}'
    else:
        assert with_value(text, "k", value="v") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1, "z": 2}', '{"a": 1, "k": "v", "z": 2}'),
        ('{\n  "_a": 1,\n  "b": [],\n  "z": 2\n}', '{\n  "_a": 1,\n  "b": [],\n  "k": "v",\n  "z": 2\n}'),
        ('{"b": 1, "a": 2, "z": 3}', '{"b": 1, "a": 2, "z": 3, "k": "v"}'),
        ('{"m": 1, "z": 2}', '{"m": 1, "z": 2, "k": "v"}'),
    ],
)
def test_among_sorted_keys_a_new_one_goes_where_it_belongs(text, expected):
    assert apply(text, [("rule", Settings(text).set("k", value="v"))]) == expected


def test_of_a_key_that_stands_twice_the_last_counts():
    assert with_value('{"k": 1, "a": 2, "k": 3}', "k", value="v") == '{"k": 1, "a": 2, "k": "v"}'


def test_deep_values_are_passed_over():
    depth = 500
    deep = "[" * depth + "]" * depth
    assert with_value(f'{{"a": {deep}}}', "k", value="v") == f'{{"a": {deep}, "k": "v"}}'
