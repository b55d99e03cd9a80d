import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised

RULE = "attention-switch"
ANSWER = """\
    _can_set_attn_implementation = classmethod(lambda cls: True)  # 5.1 on looks for a call that older ones lack
"""
IMPORT = "from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel\n"
LAYER = "class Attention:\n    def forward(self, x):\n        return ALL_ATTENTION_FUNCTIONS[self.kind](x)\n"
BASE = "class Base(PreTrainedModel):\n    x = 1\n"


def test_only_the_base_class_answers():
    models = BASE + "{}class Model(Base):\n    y = 1\n"
    check_transformed(RULE, IMPORT + LAYER + models.format(""), IMPORT + LAYER + models.format(ANSWER))


def test_names_are_resolved():
    source = "import transformers.modeling_utils as mu\n" + LAYER.replace("ALL", "mu.ALL")
    source += BASE.replace("PreTrained", "mu.PreTrained")
    check_transformed(RULE, source, source + ANSWER)


def test_the_base_class_from_the_top_of_the_library():
    source = (
        "from transformers import PreTrainedModel\nfrom transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS\n"
    )
    check_transformed(RULE, source + LAYER + BASE, source + LAYER + BASE + ANSWER)


@pytest.mark.parametrize(
    "source",
    [
        IMPORT + BASE,  # looks nothing up
        IMPORT + LAYER,  # defines no model
        LAYER + BASE,  # another table
        IMPORT + LAYER.replace("[self.kind]", ".get_interface(self.kind, eager)") + BASE,
        IMPORT + LAYER + BASE + "    def _can_set_attn_implementation(cls): ...\n",
    ],
)
def test_left_alone(source):
    check_noop(RULE, source)


@pytest.mark.parametrize(
    ("layer", "line"),
    [(LAYER.replace("forward", "__init__"), 4), ("ATTENTION = ALL_ATTENTION_FUNCTIONS['sdpa']\n", 2)],
)
def test_attention_chosen_before_the_model_runs(layer, line):
    check_unrecognised(RULE, IMPORT + layer + BASE, line)
