import pytest

from tests.hotfix.specification import check_noop, check_transformed

RULE = "dropped-mask"
UPDATE = """\
class ForCausalLM:
    def {name}(self, outputs, model_kwargs, encoder=False):
        if {test}:
            model_kwargs["attention_mask"] = longer(model_kwargs["attention_mask"])
"""
NAME = "_update_model_kwargs_for_generation"


@pytest.mark.parametrize("and_more", ["", " and not encoder"])
def test_an_entry_must_be_a_mask(and_more):
    before = UPDATE.format(name=NAME, test=f"'attention_mask' in model_kwargs{and_more}")
    after = UPDATE.format(name=NAME, test=f'model_kwargs.get("attention_mask") is not None{and_more}')
    check_transformed(RULE, before, after)


@pytest.mark.parametrize(
    ("name", "test"),
    [
        (NAME, '"position_ids" in model_kwargs'),
        (NAME, '"attention_mask" not in model_kwargs'),
        ("generate", '"attention_mask" in model_kwargs'),
    ],
)
def test_left_alone(name, test):
    check_noop(RULE, UPDATE.format(name=name, test=test))
