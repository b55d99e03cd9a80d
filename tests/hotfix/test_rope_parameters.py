import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised, rewritten

RULE = "rope-parameters"
BEFORE = """\
from transformers.modeling_rope_utils import rope_config_validation

class Config(PretrainedConfig):
    def __init__(self, rope_theta=10000.0, rope_scaling=None, **kwargs):
        self.rope_theta = rope_theta
        self.rope_scaling = rope_scaling
        rope_config_validation(self)
"""
AFTER = """\
from transformers.modeling_rope_utils import rope_config_validation

class Config(PretrainedConfig):
    def __init__(self, rope_theta=10000.0, rope_scaling=None, **kwargs):
        self.rope_theta = rope_theta
        if rope_scaling is None:
            rope_scaling = kwargs.pop("rope_parameters", None)  # its name in transformers 5
        if hasattr(self, "standardize_rope_params"):
            self.rope_parameters = rope_scaling
        else:
            self.rope_scaling = rope_scaling
        if hasattr(self, "standardize_rope_params"):
            self.standardize_rope_params()
        else:
            rope_config_validation(self)
"""


def test_the_rewrite():
    check_transformed(RULE, BEFORE, AFTER)


@pytest.mark.parametrize(
    ("imported", "called"),
    [
        ("import transformers.modeling_rope_utils as ru", "ru.rope_config_validation"),
        ("from transformers import modeling_rope_utils", "modeling_rope_utils.rope_config_validation"),
    ],
)
def test_however_the_validation_is_imported(imported, called):
    original = "from transformers.modeling_rope_utils import rope_config_validation"

    def with_import(source: str) -> str:
        first, second = source.split(original)
        return first + imported + second.replace("rope_config_validation", called)

    check_transformed(RULE, with_import(BEFORE), with_import(AFTER))


def test_comments_stay_above_their_lines():
    result = rewritten(
        RULE, BEFORE.replace("        self.rope_scaling", "        # scaling\n        self.rope_scaling")
    )
    assert "        # scaling\n        if rope_scaling is None:\n" in result


def test_without_keyword_arguments_nothing_is_popped():
    result = rewritten(RULE, BEFORE.replace(", **kwargs", ""))
    assert "pop" not in result
    assert "self.rope_parameters = rope_scaling" in result


@pytest.mark.parametrize(
    "source",
    [
        "from transformers.modeling_rope_utils import rope_config_validation\n",
        "class Config:\n    def __init__(self):\n        self.rope_theta = 1\n",
        "class Model:\n    def forward(self):\n        self.rope_scaling = 1\n",
    ],
)
def test_left_alone(source):
    check_noop(RULE, source)


def test_windows_line_ends_stay():
    check_transformed(RULE, BEFORE.replace("\n", "\r\n"), AFTER.replace("\n", "\r\n"))


@pytest.mark.parametrize("use", ["check = rope_config_validation", "rope_config_validation(config)"])
def test_named_with_its_line(use):
    check_unrecognised(RULE, BEFORE.replace("rope_config_validation(self)", use), 7)
