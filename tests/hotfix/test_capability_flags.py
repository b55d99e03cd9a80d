import pytest

from tests.hotfix.specification import check_noop, check_transformed

RULE = "capability-flags"


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("_supports_flash_attn_2", ["_supports_flash_attn_3", "_supports_flash_attn"]),
        ("_supports_static_cache", ["_can_compile_fullgraph"]),
    ],
)
@pytest.mark.parametrize("value", ["True", "False"])
def test_a_flag_keeps_its_value_and_its_comment(earlier, later, value):
    before = f"class A:\n    # why\n    {earlier} = {value}\n    x = 1\n"
    check_transformed(
        RULE, before, before.replace("    x", "".join(f"    {name} = {value}\n" for name in later) + "    x")
    )


@pytest.mark.parametrize(
    "source",
    [
        "class A:\n    _supports_flash_attn = _supports_flash_attn_3 = True\n",
        "class A:\n    _supports_sdpa = True\n",
        "_supports_flash_attn_2 = True\n",
        "class A:\n    def f(self):\n        _supports_flash_attn_2 = True\n",
    ],
)
def test_left_alone(source):
    check_noop(RULE, source)
