import json

import pytest

from tests.hotfix.specification import check_noop, check_unrecognised

RULE = "expert-names"
BEFORE = """\
import torch.nn as nn

class MoE(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.experts = nn.ModuleList([Expert(config)])
"""


def config(model_type: str) -> str:
    return json.dumps({"model_type": model_type})


@pytest.mark.parametrize("model_type", ["deepseek_v2", "deepseek_v3", "mixtral", "qwen2_moe"])
def test_a_list_of_experts_of_a_type_that_the_library_merges(model_type):
    check_unrecognised(RULE, BEFORE, 6, config=config(model_type))


@pytest.mark.parametrize(
    ("source", "model_type"),
    [
        (BEFORE, "bailing_moe"),
        (BEFORE.replace("self.experts", "self.specialists"), "mixtral"),
        (BEFORE.replace("nn.ModuleList([Expert(config)])", "Merged(config)"), "mixtral"),
    ],
)
def test_left_alone(source, model_type):
    check_noop(RULE, source, config=config(model_type))
