import pytest

from tests.hotfix.specification import check_noop, check_transformed

RULE = "rope-type"
FUNCTION = '''
def _rope_scaling(config):
    """Return what transformers 4 calls rope_scaling: None without scaling, and its type as "type"."""
    given = config.rope_scaling or {}
    kind = given.get("type", given.get("rope_type", "default"))
    return None if kind == "default" else {**given, "type": kind}
'''
BEFORE = """\
import torch

if self.config.rope_scaling is None:
    kind = None
else:
    kind = self.config.rope_scaling["type"]
    factor = self.config.rope_scaling.get("factor")
"""


def test_each_reading_goes_through_a_function():
    after = BEFORE.replace("self.config.rope_scaling", "_rope_scaling(self.config)")
    check_transformed(RULE, BEFORE, after.replace("import torch\n", "import torch\n\n" + FUNCTION))


@pytest.mark.parametrize(
    "source",
    [
        BEFORE.replace('["type"]', '["rope_type"]'),
        'import torch\nkind = self.rope_scaling["type"]\n',
        'import torch\nconfig.rope_scaling["factor"] = 2\n',
    ],
)
def test_left_alone(source):
    check_noop(RULE, source)


class Configuration:
    def __init__(self, rope_scaling):
        self.rope_scaling = rope_scaling


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ({"rope_type": "default", "rope_theta": 10000.0}, None),
        ({"type": "yarn", "factor": 4}, {"type": "yarn", "factor": 4}),
        ({"rope_type": "yarn", "factor": 4}, {"rope_type": "yarn", "factor": 4, "type": "yarn"}),
    ],
)
def test_the_function_gives_what_transformers_4_gives(given, expected):
    scope: dict = {}
    exec(FUNCTION, scope)
    assert scope["_rope_scaling"](Configuration(given)) == expected
