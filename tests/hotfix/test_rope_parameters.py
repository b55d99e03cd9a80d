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
    def __init__(self, rope_theta=None, rope_scaling=None, **kwargs):
        rope_parameters = dict(kwargs.pop("rope_parameters", None) or {})  # what transformers 5 saves in place of both
        saved_theta = rope_parameters.pop("rope_theta", 10000.0)
        rope_theta = saved_theta if rope_theta is None else rope_theta
        rope_scaling = rope_scaling or rope_parameters or None
        self.rope_theta = rope_theta
        self.rope_scaling = rope_scaling
        if not hasattr(self, "standardize_rope_params"):
            rope_config_validation(self)

    if hasattr(PretrainedConfig, "standardize_rope_params"):
        # transformers 5 reads both from one dictionary, rope_parameters
        rope_theta = property(lambda self: self.rope_parameters["rope_theta"])

        def __setattr__(self, name, value):
            parameters = self.__dict__.get("rope_parameters") or {}
            if name == "rope_theta":
                self.rope_parameters = {**parameters, "rope_theta": value}
            elif name == "rope_scaling":
                self.rope_parameters = {"rope_theta": self.rope_theta, **(value or {"rope_type": "default"})}
                self.standardize_rope_params()
            else:
                if name == "max_position_embeddings" and parameters.get("rope_type") in ("yarn", "longrope"):
                    if parameters.get("original_max_position_embeddings") == self.max_position_embeddings:
                        parameters["original_max_position_embeddings"] = value  # it was taken from here
                super().__setattr__(name, value)
"""  # noqa: E501


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
    result = rewritten(RULE, BEFORE.replace("        self.rope_theta", "        # theta\n        self.rope_theta"))
    assert "        # theta\n        rope_parameters = dict(kwargs.pop(" in result


def test_without_keyword_arguments_nothing_is_popped():
    result = rewritten(RULE, BEFORE.replace(", **kwargs", ""))
    assert "pop" not in result
    assert "rope_theta=10000.0, rope_scaling=None" in result
    assert "def __setattr__(self, name, value):" in result


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


VALIDATED = (
    BEFORE.replace("rope_config_validation(self)", "self._check()")
    + """\

    def _check(self):
        if self.rope_scaling is not None and "type" not in self.rope_scaling:
            raise ValueError("no type")
"""
)


def test_a_validation_of_its_own_is_for_transformers_4():
    guarded = '        if not hasattr(self, "standardize_rope_params"):\n            self._check()\n'
    changed = rewritten(RULE, VALIDATED)
    assert guarded in changed
    check_noop(RULE, changed)


@pytest.mark.parametrize(
    ("old", "new"),
    [("raise ValueError", "print"), ("raise", "self.rope_scaling = {}\n            raise"), ("is not None", "is 0")],
)
def test_what_does_more_or_less_than_validate_is_called_as_before(old, new):
    source = VALIDATED.replace(old, new)
    assert ("            self._check()" in rewritten(RULE, source)) == (old == "is not None")


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("        self.rope_theta = rope_theta\n", "", 5),
        ("rope_theta=10000.0", "rope_theta", 5),
    ],
)
def test_a_theta_that_cannot_be_taken_over_is_named(old, new, line):
    check_unrecognised(RULE, BEFORE.replace(old, new), line)


class Release5:
    """As much of a configuration of transformers 5 as the properties ask for."""

    def standardize_rope_params(self):
        if self.rope_parameters.get("rope_type") == "yarn":
            self.rope_parameters.setdefault("original_max_position_embeddings", self.max_position_embeddings)


class Release4:
    pass


def built(base: type) -> type:
    source = BEFORE.replace(
        "        self.rope_theta", "        self.max_position_embeddings = 64\n        self.rope_theta"
    )
    lines = rewritten(RULE, source.replace("        rope_config_validation(self)\n", "")).splitlines()
    scope = {"PretrainedConfig": base}
    exec("\n".join(lines[1:]), scope)
    return scope["Config"]


YARN = {"rope_type": "yarn", "factor": 4.0}


def test_what_is_set_on_4_stays_as_it_is():
    config = built(Release4)(rope_theta=9.0, rope_scaling=YARN)
    assert vars(config) == {"max_position_embeddings": 64, "rope_theta": 9.0, "rope_scaling": YARN}
    assert vars(built(Release4)()) == {"max_position_embeddings": 64, "rope_theta": 10000.0, "rope_scaling": None}


def test_what_was_saved_on_5_comes_apart_on_4():
    saved = {"rope_parameters": {**YARN, "rope_theta": 9.0}}
    config = built(Release4)(**saved)
    assert (config.rope_theta, config.rope_scaling) == (9.0, YARN)
    config = built(Release4)(**saved, rope_theta=7.0)
    assert (config.rope_theta, config.rope_scaling) == (7.0, YARN)


def test_on_5_each_name_is_a_way_into_one_dictionary():
    config = built(Release5)(rope_theta=9.0)
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 9.0}
    config.rope_scaling = YARN
    assert config.rope_parameters == {**YARN, "rope_theta": 9.0, "original_max_position_embeddings": 64}
    config.rope_theta = 7.0
    config.max_position_embeddings = 128
    assert config.rope_parameters == {**YARN, "rope_theta": 7.0, "original_max_position_embeddings": 128}
    assert vars(config).keys() == {"rope_parameters", "max_position_embeddings"}
    config.rope_parameters["rope_theta"] = 5.0
    assert config.rope_theta == 5.0
    config.rope_scaling = None
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 5.0}
    assert YARN == {"rope_type": "yarn", "factor": 4.0}


def test_a_length_of_its_own_is_kept_on_5():
    config = built(Release5)(rope_scaling={**YARN, "original_max_position_embeddings": 32})
    config.max_position_embeddings = 128
    assert config.rope_parameters["original_max_position_embeddings"] == 32
