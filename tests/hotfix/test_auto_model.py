import json

import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised

RULE = "auto-model"
MODELING = """\
class Base(PreTrainedModel): ...

class Layer(Base):
    pass

class Model(Base):
    def forward(self): ...

class Outer(Model): ...

class ForCausalLM(Base):
    def __init__(self, config):
        self.layer = Layer(config)
        self.model = Model(config)
"""


def config(auto_model: str | None, **others: str) -> str:
    auto_map = {"AutoModel": auto_model, "AutoModelForCausalLM": "modeling_x.ForCausalLM", **others}
    auto_map = {key: value for key, value in auto_map.items() if value}
    return json.dumps({"first": 1, "auto_map": auto_map, "last": 2})


def test_the_base_class_is_replaced_by_the_model():
    check_transformed(RULE, config("modeling_x.Base"), config("modeling_x.Model"), modeling=MODELING)


@pytest.mark.parametrize("named", ["modeling_x.Model", "modeling_x.Outer", "other.Model", None])
def test_left_alone(named):
    check_noop(RULE, config(named), modeling=MODELING)


def test_a_folder_without_code_is_left_alone():
    check_noop(RULE, '{"model_type": "llama"}', modeling=MODELING)


def test_no_model_with_a_forward_in_sight():
    modeling = MODELING.replace("        self.model = Model(config)\n", "")
    check_unrecognised(RULE, config("modeling_x.Base"), 11, modeling=modeling)
