import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised, example

RULE = "mask-device"
BEFORE, AFTER = example(RULE)


def test_annotated_and_below_the_docstring():
    doc = '):\n        """Build."""\n'
    before = BEFORE.replace("device, cache", "device: torch.device, cache").replace("kwargs):\n", "kwargs" + doc)
    check_transformed(RULE, before, AFTER.replace("kwargs):\n", "kwargs" + doc))


@pytest.mark.parametrize(
    "source", [BEFORE.replace("def _prepare", "def _other"), BEFORE.replace("class Model(Base):", "if True:")]
)
def test_left_alone(source):
    check_noop(RULE, source)


@pytest.mark.parametrize("missing", [", **kwargs", ", cache_position"])
def test_named_with_its_line(missing):
    check_unrecognised(RULE, BEFORE.replace(missing, ""), 2)
