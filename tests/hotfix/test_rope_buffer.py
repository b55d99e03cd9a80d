import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised, rewritten

RULE = "rope-buffer"
BEFORE = """\
from transformers import PreTrainedModel

class RotaryEmbedding(nn.Module):
    def __init__(self, config, device=None):
        self.config = config
        inv_freq, self.attention_scaling = self.rope_init_fn(self.config, device)
        self.register_buffer("inv_freq", inv_freq, persistent=False)

class Base(PreTrainedModel):
    def _init_weights(self, module):
        pass
"""
AFTER = '''\
from transformers import PreTrainedModel

class RotaryEmbedding(nn.Module):
    def __init__(self, config, device=None):
        self.config = config
        self.reset_inv_freq(device)

    def reset_inv_freq(self, device=None):
        """Compute inv_freq; transformers 5 leaves it uninitialised after loading."""
        inv_freq, self.attention_scaling = self.rope_init_fn(self.config, device)
        self.register_buffer("inv_freq", inv_freq, persistent=False)

class Base(PreTrainedModel):
    def _init_weights(self, module):
        if isinstance(module, RotaryEmbedding):
            device = module.inv_freq.device
            module.reset_inv_freq()  # on the CPU, as at construction: a GPU may round otherwise
            module.to(device)
        pass
'''
RESET = AFTER[AFTER.index("        if isinstance(module") : AFTER.index("        pass\n")]


def test_the_rewrite():
    check_transformed(RULE, BEFORE, AFTER)


@pytest.mark.parametrize("name", ["FooRotaryEmbedding", "Positions"])
def test_the_class_is_known_by_what_it_does(name):
    check_transformed(RULE, BEFORE.replace("RotaryEmbedding", name), AFTER.replace("RotaryEmbedding", name))


def test_each_rotary_class_is_reset():
    """A model may have one for long and one for short contexts."""
    start, stop = "class RotaryEmbedding", "class Base"
    before = BEFORE[BEFORE.index(start) : BEFORE.index(stop)]
    after = AFTER[AFTER.index(start) : AFTER.index(stop)]
    resets = """\
        if isinstance(module, RotaryEmbedding):
            device = module.inv_freq.device
            module.reset_inv_freq()  # on the CPU, as at construction: a GPU may round otherwise
            module.to(device)
        if isinstance(module, LocalRotary):
            device = module.inv_freq.device
            module.reset_inv_freq()  # on the CPU, as at construction: a GPU may round otherwise
            module.to(device)
"""
    check_transformed(
        RULE,
        BEFORE.replace(before, before + before.replace("RotaryEmbedding", "LocalRotary")),
        AFTER.replace(RESET, resets).replace(after, after + after.replace("RotaryEmbedding", "LocalRotary")),
    )


def test_the_kept_original_moves_along():
    line = '        self.register_buffer("inv_freq", inv_freq, persistent=False)\n'
    more = f"{line}        self.original_inv_freq = self.inv_freq\n"
    check_transformed(RULE, BEFORE.replace(line, more), AFTER.replace(line, more))


def test_a_formula_instead_of_a_function():
    computed = "        inv_freq, self.attention_scaling = self.rope_init_fn(self.config, device)\n"
    formula = "        inv_freq = 1.0 / self.config.rope_theta ** (torch.arange(0, 8, 2, device=device) / 8)\n"
    check_transformed(RULE, BEFORE.replace(computed, formula), AFTER.replace(computed, formula))


def test_before_anything_that_may_return():
    body = "        if not isinstance(module, Linear):\n            return\n        init(module)\n"
    check_transformed(
        RULE, BEFORE.replace("        pass\n", body), AFTER.replace(f"{RESET}        pass\n", RESET + body)
    )


def test_after_the_librarys_own():
    body = '        """Initialise."""\n        super()._init_weights(module)\n        init(module)\n'
    result = rewritten(RULE, BEFORE.replace("        pass\n", body))
    assert result.endswith(body.replace("        init(module)\n", f"{RESET}        init(module)\n"))


def test_a_model_without_init_weights_gets_one():
    before = BEFORE.replace("    def _init_weights(self, module):\n        pass\n", "    main = 1\n")
    after = AFTER.replace(
        f"    def _init_weights(self, module):\n{RESET}        pass\n",
        f"    main = 1\n\n    def _init_weights(self, module):\n        super()._init_weights(module)\n{RESET}",
    )
    check_transformed(RULE, before, after)


@pytest.mark.parametrize(
    "source",
    [
        BEFORE.replace(", persistent=False", ""),
        BEFORE.replace("persistent=False", "persistent=True"),
        "class Base(PreTrainedModel):\n    def _init_weights(self, module):\n        pass\n",
    ],
)
def test_a_buffer_that_is_in_the_checkpoint_is_left_alone(source):
    check_noop(RULE, source)


def test_windows_line_ends_stay():
    check_transformed(RULE, BEFORE.replace("\n", "\r\n"), AFTER.replace("\n", "\r\n"))


@pytest.mark.parametrize(
    "source",
    [
        BEFORE.replace('"inv_freq", inv_freq', '"mask", inv_freq'),
        BEFORE.replace('"inv_freq", inv_freq', '"inv_freq", inv_freq.float()'),
        # names that only __init__ has
        BEFORE.replace("config, device=None", "config, base, device=None").replace("(self.config,", "(base,"),
        BEFORE.replace("self.config = config", "pass").replace("(self.config,", "(config,"),
    ],
)
def test_left_to_lost_buffers(source):
    check_noop(RULE, source)
    assert "self._built_from = " in rewritten("lost-buffers", source)


def test_what_follows_the_last_use_stays():
    line = '        self.register_buffer("inv_freq", inv_freq, persistent=False)\n'
    more = "        # other\n        self.other = 1\n"
    reset = "        self.reset_inv_freq(device)\n"
    check_transformed(RULE, BEFORE.replace(line, line + more), AFTER.replace(reset, reset + more, 1))


def test_two_models_in_one_file_are_refused():
    check_unrecognised(RULE, BEFORE + "class Other(PreTrainedModel): ...\n", 3)
