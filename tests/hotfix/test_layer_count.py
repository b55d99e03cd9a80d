import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised

RULE = "layer-count"
CONFIG = '''\
class Config(PretrainedConfig):
    """Of a model."""

{map}    model_type = "tiny"

    def __init__(self, {name}=2, **kwargs):
        self.{name} = {name}
'''


@pytest.mark.parametrize("name", ["num_layers", "n_layer", "n_layers"])
def test_the_name_that_is_asked_for_stands_for_the_own_one(name):
    added = f'    attribute_map = {{"num_hidden_layers": "{name}"}}\n'
    check_transformed(RULE, CONFIG.format(map="", name=name), CONFIG.format(map=added, name=name))


@pytest.mark.parametrize("name", ["num_hidden_layers", "depth"])
def test_left_alone(name):
    check_noop(RULE, CONFIG.format(map="", name=name))
    check_noop(RULE, "class Config: ...\n")


def test_a_map_that_says_nothing_of_it_is_named():
    check_unrecognised(RULE, CONFIG.format(map='    attribute_map = {"a": "b"}\n', name="n_layer"), 1)
