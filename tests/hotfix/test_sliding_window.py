import pytest

from opensci_lib.hotfix.edit import apply
from opensci_lib.hotfix.rule import Sources
from opensci_lib.hotfix.settings import Settings
from opensci_lib.hotfix.source import Source, UnrecognisedError
from tests.hotfix.specification import check_noop, check_transformed, rule

RULE = "sliding-window"
BEFORE = """\
class Config(PretrainedConfig):
    def __init__(self, sliding_window=4096, use_sliding_window=False):
        self.sliding_window = sliding_window
"""


def test_a_window_that_is_off_is_none():
    after = BEFORE.replace("= sliding_window\n", "= sliding_window if use_sliding_window else None\n")
    check_transformed(RULE, BEFORE, after)


@pytest.mark.parametrize("source", [BEFORE.replace("use_sliding_window=False", "other=1"), "class Config: ...\n"])
def test_left_alone(source):
    check_noop(RULE, source)


@pytest.mark.parametrize("asked", [True, False])
def test_a_model_that_reads_the_window_must_ask_for_the_switch(asked):
    model = Source(f"if {'config.use_sliding_window' if asked else 'True'}:\n    n = config.sliding_window\n")
    sources = Sources(model, Source(BEFORE), Settings("{}"), None, {"modeling": model})
    if asked:
        assert len(list(rule(RULE).edits(sources))) == 1
        return
    with pytest.raises(UnrecognisedError) as caught:
        list(rule(RULE).edits(sources))
    assert caught.value.node.lineno == 3


MASKED = """\
class Config(PretrainedConfig):
    def __init__(self, num_hidden_layers=2, sliding_window=None):
        self.sliding_window = sliding_window
"""
TYPES = '        self.layer_types = ["full_attention"] * num_hidden_layers  # the model masks the window itself\n'
READS = "mask = made(mask, sliding_window=self.config.sliding_window)\n"


def of_model(configuration: str, model: str) -> Sources:
    code = Source(model)
    return Sources(code, Source(configuration), Settings("{}"), None, {"modeling": code})


def test_a_model_that_masks_the_window_itself_gets_a_whole_cache():
    assert apply(MASKED, [(RULE, edit) for edit in rule(RULE).edits(of_model(MASKED, READS))]) == MASKED + TYPES
    assert list(rule(RULE).edits(of_model(MASKED + TYPES, READS))) == []


@pytest.mark.parametrize(
    "model",
    [
        "x = 1\n",
        READS + "for kind in self.config.layer_types: ...\n",
        READS + "create_sliding_window_causal_mask()\n",
    ],
)
def test_a_model_that_reads_no_window_or_knows_what_slides_is_left_alone(model):
    assert list(rule(RULE).edits(of_model(MASKED, model))) == []


def test_a_configuration_that_takes_no_number_of_layers_is_named():
    with pytest.raises(UnrecognisedError) as caught:
        list(rule(RULE).edits(of_model(MASKED.replace("num_hidden_layers", "n_layer"), READS)))
    assert caught.value.node.lineno == 3
