import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised, rewritten

RULE = "rope-buffer"
BEFORE = """\
from transformers import PreTrainedModel

class RotaryEmbedding(nn.Module):
    def __init__(self, config, device=None):
        self.config, self.rope_type = config, config.rope_type
        inv_freq, self.attention_scaling = self.rope_init_fn(self.config, device)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.original_inv_freq = self.inv_freq

class Base(PreTrainedModel):
    def _init_weights(self, module):
        pass
"""
CALL = """\
        super()._init_weights(module)  # transformers 5 fills inv_freq there, which loading leaves uninitialised
"""
KEPT = """\
        if hasattr(module, "original_inv_freq"):
            module.original_inv_freq = module.inv_freq
"""
AFTER = BEFORE.replace("        pass\n", f"{CALL}{KEPT}        pass\n")


def test_the_rewrite():
    check_transformed(RULE, BEFORE, AFTER)


def test_two_rotary_classes_need_it_once():
    """A model may have one for long and one for short contexts."""
    start, stop = BEFORE.index("class RotaryEmbedding"), BEFORE.index("class Base")
    other = BEFORE[start:stop].replace("RotaryEmbedding", "LocalRotaryEmbedding")
    check_transformed(RULE, BEFORE.replace("class Base", f"{other}class Base"),
                      AFTER.replace("class Base", f"{other}class Base"))  # fmt: skip


def test_where_no_original_is_kept_the_library_needs_one():
    line = "        self.original_inv_freq = self.inv_freq\n"
    more = "        self.other = 1\n"
    check_transformed(RULE, BEFORE.replace(line, more), AFTER.replace(line, line + more))


def test_before_anything_that_may_return():
    body = "        if not isinstance(module, Linear):\n            return\n        init(module)\n"
    check_transformed(RULE, BEFORE.replace("        pass\n", body), AFTER.replace("        pass\n", body))


def test_after_the_librarys_own():
    body = '        """Initialise."""\n        super()._init_weights(module)\n{}        init(module)\n'
    check_transformed(
        RULE,
        BEFORE.replace("        pass\n", body.format("")),
        BEFORE.replace("        pass\n", body.format(KEPT)),
    )


def test_the_argument_may_have_another_name():
    def renamed(source: str) -> str:
        return source.replace("self, module", "self, m").replace("(module", "(m").replace("module.", "m.")

    check_transformed(RULE, renamed(BEFORE), renamed(AFTER))


def test_a_model_without_init_weights_gets_one():
    check_transformed(
        RULE,
        BEFORE.replace("    def _init_weights(self, module):\n        pass\n", "    main = 1\n"),
        AFTER.replace("    def _init", "    main = 1\n\n    def _init").replace("        pass\n", ""),
    )


@pytest.mark.parametrize(
    "source",
    [
        BEFORE.replace(", persistent=False", ""),
        BEFORE.replace("persistent=False", "persistent=True"),
        "from transformers import PreTrainedModel\n"
        "class Base(PreTrainedModel):\n    def _init_weights(self, module):\n        pass\n",
    ],
)
def test_a_buffer_that_is_in_the_checkpoint_is_left_alone(source):
    check_noop(RULE, source)


def test_windows_line_ends_stay():
    check_transformed(RULE, BEFORE.replace("\n", "\r\n"), AFTER.replace("\n", "\r\n"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"inv_freq", inv_freq', '"mask", inv_freq'),
        ('"inv_freq", inv_freq', '"inv_freq", inv_freq.float()'),
        # what the library would not compute, or not in the same way
        ("class RotaryEmbedding", "class Positions"),
        ("self.rope_type", "self.kind"),
        ("self.config, self.rope_type", "self.settings, self.rope_type"),
        ("self.rope_init_fn(", "frequencies("),
        ("self.rope_init_fn(self.config, device)", "1.0 / config.rope_theta ** exponents, 1.0"),
    ],
)
def test_left_to_lost_buffers(old, new):
    source = BEFORE.replace(old, new)
    check_noop(RULE, source)
    assert "self._built_from = " in rewritten("lost-buffers", source)


def test_two_models_in_one_file_are_refused():
    check_unrecognised(RULE, BEFORE + "class Other(PreTrainedModel): ...\n", 3)


def test_init_weights_with_other_arguments_is_refused():
    check_unrecognised(RULE, BEFORE.replace("self, module", "self, module, std"), 11)
