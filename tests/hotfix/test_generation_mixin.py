import pytest

from tests.hotfix.specification import check_noop, check_transformed

RULE = "generation-mixin"
PREPARES = "    def prepare_inputs_for_generation(self, input_ids):\n        return {}\n"


def test_a_model_that_prepares_inputs_gets_the_base():
    check_transformed(
        RULE,
        f"from transformers.modeling_utils import PreTrainedModel\nclass Head(PreTrainedModel):\n{PREPARES}",
        "from transformers.modeling_utils import PreTrainedModel\n"
        "\nfrom transformers.generation import GenerationMixin\n"
        f"class Head(PreTrainedModel, GenerationMixin):\n{PREPARES}",
    )


def test_one_import_serves_two_models_and_one_that_is_there_is_used():
    def models(bases: str) -> str:
        return f"class A({bases}):\n{PREPARES}class B({bases}):\n{PREPARES}"

    bare, both = models("PreTrainedModel"), models("PreTrainedModel, GenerationMixin")
    imported = "import torch\nfrom transformers import GenerationMixin, PreTrainedModel\n"
    check_transformed(RULE, imported + bare, imported + both)
    alone = "from transformers import PreTrainedModel\n"
    check_transformed(RULE, alone + bare, f"{alone}\nfrom transformers.generation import GenerationMixin\n{both}")


def test_a_base_in_another_file_is_known_by_its_name():
    check_transformed(
        RULE,
        f"from .base import TinyPreTrainedModel\nclass Head(TinyPreTrainedModel):\n{PREPARES}",
        "from .base import TinyPreTrainedModel\n\nfrom transformers.generation import GenerationMixin\n"
        f"class Head(TinyPreTrainedModel, GenerationMixin):\n{PREPARES}",
    )


@pytest.mark.parametrize(
    "source",
    [
        # no model for generation, its base has the mixin, a library's model that has it, no model at all
        "from transformers import PreTrainedModel\nclass Model(PreTrainedModel):\n    def forward(self): ...\n",
        "from transformers import GenerationMixin, PreTrainedModel\n"
        f"class Base(PreTrainedModel, GenerationMixin): ...\nclass Head(Base):\n{PREPARES}",
        f"from transformers import LlamaForCausalLM\nclass Head(LlamaForCausalLM):\n{PREPARES}",
        f"class Wrapper:\n{PREPARES}",
    ],
)
def test_left_alone(source):
    check_noop(RULE, source)
