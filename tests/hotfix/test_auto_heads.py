import json

import pytest

from tests.hotfix.specification import check_noop, check_transformed

RULE = "auto-heads"


def config(**entries: str) -> str:
    return json.dumps({"auto_map": {"AutoModelForCausalLM": "modeling_x.FooForCausalLM", **entries}, "last": 1})


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"])
def test_a_head_is_named(head):
    modeling = f"class Foo{head}(Base):\n    def forward(self): ...\n"
    check_transformed(RULE, config(), config(**{f"AutoModel{head}": f"modeling_x.Foo{head}"}), modeling=modeling)


@pytest.mark.parametrize(
    "modeling",
    [
        "class FooForSequenceClassification(Base): ...\n",
        "class FooForCausalLM(Base):\n    def forward(self): ...\n",
        "def FooForSequenceClassification(): ...\n",
    ],
)
def test_left_alone(modeling):
    check_noop(RULE, config(), modeling=modeling)


def test_an_entry_that_is_there_stays():
    modeling = "class FooForSequenceClassification(Base):\n    def forward(self): ...\n"
    check_noop(RULE, config(AutoModelForSequenceClassification="other.Class"), modeling=modeling)


def test_a_folder_without_code_is_left_alone():
    check_noop(RULE, "{}")
