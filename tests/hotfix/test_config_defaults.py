import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised

RULE = "config-defaults"
CONFIG = (
    "from transformers import LlamaConfig, PretrainedConfig\n"
    "class Config({base}):\n"
    "    model_type = 'tiny'\n"
    "    def __init__(self, width=8{arguments}, **kwargs):\n"
    "        self.width = width\n"
    "        super().__init__({handed_on}**kwargs)\n"
)
BARE = CONFIG.format(base="PretrainedConfig", arguments="", handed_on="")


@pytest.mark.parametrize(
    ("read", "becomes"),
    [
        ("self.config.pad_token_id", 'getattr(self.config, "pad_token_id", None)'),
        ("config.max_length", 'getattr(config, "max_length", 20)'),
        ("model.config.is_decoder", 'getattr(model.config, "is_decoder", False)'),
        ("config.tie_word_embeddings", 'getattr(config, "tie_word_embeddings", True)'),
        ("config.repetition_penalty", 'getattr(config, "repetition_penalty", 1.0)'),
    ],
)
def test_what_every_configuration_had_is_read_with_the_value_that_it_had(read, becomes):
    check_transformed(RULE, f"x = f({read})\n", f"x = f({becomes})\n", configuration=BARE)


@pytest.mark.parametrize(
    "configuration",
    [
        # handed on, taken, set, a class's own, computed; a library's configuration that names it; none that is known
        CONFIG.format(base="PretrainedConfig", arguments="", handed_on="pad_token_id=0, "),
        CONFIG.format(base="PretrainedConfig", arguments=", pad_token_id=None", handed_on=""),
        f"{BARE}        self.pad_token_id = 0\n",
        f"{BARE}    pad_token_id = 0\n",
        f"{BARE}    @property\n    def pad_token_id(self):\n        return 0\n",
        CONFIG.format(base="LlamaConfig", arguments="", handed_on=""),
        "from .other import Config\n",
    ],
)
def test_what_the_configuration_names_is_left_alone(configuration):
    check_noop(RULE, "x = config.pad_token_id\n", configuration=configuration)


@pytest.mark.parametrize(
    "source",
    [
        "x = config.hidden_size\n",
        "config.pad_token_id = 0\n",
        "x = generation_config.max_length\n",
        "x = tokenizer.pad_token_id\n",
        "x = getattr(config, 'pad_token_id', 0)\n",
    ],
)
def test_left_alone(source):
    check_noop(RULE, source, configuration=BARE)


def test_code_without_a_configuration_of_its_own_is_left_alone():
    check_noop(RULE, "x = config.pad_token_id\n")


def test_a_setting_of_generation_that_config_json_names_is_refused():
    """5.0 and later take it out of the configuration, so that the default would be silently wrong."""
    check_unrecognised(RULE, "x = config.max_length\n", 1, configuration=BARE, config='{"max_length": 7}')
    check_transformed(
        RULE,
        "x = config.pad_token_id\n",
        'x = getattr(config, "pad_token_id", None)\n',
        configuration=BARE,
        config='{"pad_token_id": 7}',
    )
