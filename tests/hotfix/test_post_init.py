import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised

RULE = "post-init"
IMPORT = "from transformers import LlamaModel, PreTrainedModel\n"
CALL = "self.post_init()  # 5.0 and later cannot load it otherwise\n"
INIT = "    def __init__(self, config):\n        super().__init__(config)\n        self.head = 1\n"
DONE = f"{INIT}        {CALL}"


def test_each_model_ends_with_the_call():
    base = "class Base(PreTrainedModel):\n    base_model_prefix = 'model'\n"
    check_transformed(
        RULE,
        f"{IMPORT}{base}class Model(Base):\n{INIT}class Head(Base):\n{INIT}    def forward(self): ...\n",
        f"{IMPORT}{base}class Model(Base):\n{DONE}class Head(Base):\n{DONE}    def forward(self): ...\n",
    )


def test_the_call_comes_after_what_stands_deeper_and_is_made_of_whatever_self_is_called():
    init = "    def __init__(me, config):\n        super().__init__()\n        if config.x:\n            me.x = 1\n"
    call = CALL.replace("self", "me")
    check_transformed(
        RULE,
        f"{IMPORT}class Head(PreTrainedModel):\n{init}",
        f"{IMPORT}class Head(PreTrainedModel):\n{init}        {call}",
    )


def test_a_class_that_others_build_upon_has_none_before_they_are_done():
    base = f"class Base(PreTrainedModel):\n{INIT}"
    check_transformed(RULE, f"{IMPORT}{base}class Head(Base):\n{INIT}", f"{IMPORT}{base}class Head(Base):\n{DONE}")


def test_a_class_whose_heirs_only_add_methods_has_it():
    heir = "class Head(Base):\n    def forward(self): ...\n"
    check_transformed(
        RULE,
        f"{IMPORT}class Base(PreTrainedModel):\n{INIT}{heir}",
        f"{IMPORT}class Base(PreTrainedModel):\n{DONE}{heir}",
    )


@pytest.mark.parametrize(
    "source",
    [
        # the call is there, in a base, or in the library's model; no __init__; no model
        f"class Head(PreTrainedModel):\n{INIT}        self.post_init()\n",
        f"class Base(PreTrainedModel):\n{INIT}        self.post_init()\nclass Head(Base):\n{INIT}",
        f"class Head(LlamaModel):\n{INIT}",
        "class Base(PreTrainedModel):\n    config_class = None\n",
        f"class Layer(nn.Module):\n{INIT}",
    ],
)
def test_left_alone(source):
    check_noop(RULE, IMPORT + source)


def test_an_init_that_returns_from_within_is_refused():
    init = INIT.replace("self.head = 1", "return")
    check_unrecognised(RULE, f"{IMPORT}class Head(PreTrainedModel):\n{init}", 2)
