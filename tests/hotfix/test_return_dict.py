import pytest

from tests.hotfix.specification import check_noop, check_transformed

RULE = "return-dict"
CONFIGURATION = """\
from transformers.configuration_utils import PretrainedConfig

class Config(PretrainedConfig):
    model_type = "x"
"""
PROPERTY = """\
    # the library's own logs a warning from transformers 5.4 on
    use_return_dict = property(lambda self: self.return_dict and not getattr(self, "torchscript", False))
"""


@pytest.mark.parametrize(
    "use", ["self.config.use_return_dict", "config.use_return_dict", "not self.model.config.use_return_dict"]
)
def test_the_configuration_says_it_itself(use):
    check_transformed(RULE, CONFIGURATION, CONFIGURATION + PROPERTY, modeling=f"x = {use}\n")


def test_of_the_newer_name_too():
    before = CONFIGURATION.replace("Pretrained", "PreTrained")
    check_transformed(RULE, before, before + PROPERTY, modeling="config.use_return_dict\n")


def test_only_the_base_of_several_configurations():
    others = "\nclass Later(Config): ...\n\nclass Helper: ...\n"
    before, after = CONFIGURATION + others, CONFIGURATION + PROPERTY + others
    check_transformed(RULE, before, after, modeling="config.use_return_dict\n")


@pytest.mark.parametrize("modeling", ["self.config.return_dict\n", "self.use_return_dict\n", "use_return_dict = 1\n"])
def test_left_alone(modeling):
    check_noop(RULE, CONFIGURATION, modeling=modeling)


def test_what_it_says_is_what_releases_said_before_the_warning():
    scope: dict = {}
    exec("class Config:\n" + PROPERTY, scope)

    def said(**settings: bool) -> bool:
        config = scope["Config"]()
        vars(config).update(settings)
        return config.use_return_dict

    assert said(return_dict=True)
    assert said(return_dict=True, torchscript=False)
    assert not said(return_dict=True, torchscript=True)
    assert not said(return_dict=False)
