import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised

RULE = "mask-device"
BEFORE = """\
class Model(Base):
    def _prepare_4d_causal_attention_mask_with_cache_position(mask, device, cache_position, **kwargs):
        return mask.to(device)
"""
AFTER = """\
class Model(Base):
    def _prepare_4d_causal_attention_mask_with_cache_position(mask, cache_position, **kwargs):
        device = cache_position.device
        return mask.to(device)
"""


def test_the_rewrite():
    check_transformed(RULE, BEFORE, AFTER)


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
