import pytest

from tests.hotfix import test_rope_buffer as rope_buffer
from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised, rewritten

RULE = "lost-buffers"
BEFORE = """\
from transformers import PreTrainedModel

class Rotary(nn.Module):
    def __init__(self, dim, base=10000, *, device=None):
        super().__init__()
        inv_freq = 1.0 / base ** (torch.arange(0, dim, 2, device=device) / dim)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self._set_table(2048)

    def _set_table(self, length):
        self.register_buffer("cos_cached", table(self.inv_freq, length), persistent=False)

class Base(PreTrainedModel):
    def _init_weights(self, module):
        pass
"""
KEPT = '        self._built_from = {"dim": dim, "base": base, "device": device}\n'
RESET = """\
        if isinstance(module, Rotary):  # transformers 5 leaves buffers uninitialised after loading
            for name, buffer in type(module)(**module._built_from).named_buffers(recurse=False):
                if name in module._non_persistent_buffers_set:
                    getattr(module, name).copy_(buffer)
"""
AFTER = BEFORE.replace("        self._set_table(2048)\n", "        self._set_table(2048)\n" + KEPT).replace(
    "        pass\n", RESET + "        pass\n"
)


def test_a_module_is_built_again_from_what_it_keeps():
    check_transformed(RULE, BEFORE, AFTER)


def test_a_method_that_init_calls_by_way_of_another_counts():
    """Here in a base, and by the class's name."""
    base = """\
class Table(nn.Module):
    def _fill(self):
        Table._set_table(self, 2048)

"""
    way = {"class Rotary(nn.Module)": f"{base}class Rotary(Table)", "self._set_table(2048)": "self._fill()"}
    way['self.register_buffer("inv_freq"'] = 'keep("inv_freq"'
    source = BEFORE
    for text, instead in way.items():
        source = source.replace(text, instead)
    assert KEPT in rewritten(RULE, source)


def test_a_class_that_derives_keeps_its_own():
    derived = """\
class Scaled(Rotary):
    def __init__(self, dim, factor=1.0, **kwargs):
        self.factor = factor
        super().__init__(dim)

"""
    end = "        super().__init__(dim)\n"
    kept = '        self._built_from = {"dim": dim, "factor": factor, **kwargs}\n'
    check_transformed(
        RULE,
        BEFORE.replace("class Base", derived + "class Base"),
        AFTER.replace("class Base", derived.replace(end, end + kept) + "class Base"),
    )


def test_many_arguments_take_a_line_each():
    names = [f"a_long_name_{number}" for number in range(5)]
    result = rewritten(RULE, BEFORE.replace("dim, base=10000", f"dim, {', '.join(names)}, base=10000"))
    assert (
        '        self._built_from = {\n            "dim": dim,\n            "a_long_name_0": a_long_name_0,\n'
        in result
    )
    compile(result, "source", "exec")


@pytest.mark.parametrize(
    "source",
    [
        BEFORE.replace(", persistent=False", ""),
        BEFORE.replace("self.register_buffer(\"inv", "keep(\"inv").replace("        self._set_table(2048)\n", ""),
        rope_buffer.BEFORE,  # the matter of another rule
        rope_buffer.AFTER,
    ],
)  # fmt: skip
def test_left_alone(source):
    check_noop(RULE, source)


@pytest.mark.parametrize(
    ("text", "instead", "line"),
    [
        ("        inv_freq = 1.0", "        base = 7\n        inv_freq = 1.0", 6),
        ("        inv_freq = 1.0", "        if not dim:\n            return\n        inv_freq = 1.0", 7),
        ("base=10000, *, device", "*base, device", 4),
        ("class Rotary(nn.Module)", "class Rotary(PreTrainedModel)", 3),
    ],
)
def test_named_with_its_line(text, instead, line):
    check_unrecognised(RULE, BEFORE.replace(text, instead), line)
