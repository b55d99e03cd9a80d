"""Refuse experts in a list where the library merges them for the model's type.

Some 5.x releases, from 5.0 on, look up by `model_type` how a checkpoint's tensors are renamed and stacked for their
own model of that type, and do so for a model with code of its own too: each expert's tensors are stacked into one
that this code does not have, and the experts keep their random numbers.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import UnrecognisedError, dotted

#: Types whose experts are merged: `conversion_mapping` of transformers 5.0.0 and 5.2.0. Not a set: what config.json
#: says may be unhashable.
_TYPES = (
    *("deepseek_v2", "deepseek_v3", "dots1", "ernie4_5_moe", "ernie4_5_vl_moe", "exaone_moe", "flex_olmo"),
    *("glm4_moe", "glm4_moe_lite", "glm4v_moe", "glm_moe_dsa", "gpt_oss", "hunyuan_v1_moe", "jamba", "lfm2_moe"),
    *("longcat_flash", "minimax", "minimax_m2", "mixtral", "olmoe", "phimoe", "qwen2_moe", "qwen3_5_moe"),
    *("qwen3_5_moe_text", "qwen3_moe", "qwen3_next", "qwen3_omni_moe", "qwen3_omni_moe_thinker", "qwen3_vl_moe"),
    "solar_open",
)


def edits(sources: Sources) -> Edits:
    """Name the list of experts."""
    source, model_type = sources.modeling, sources.config.get("model_type")
    for line in source.find(ast.Assign) if model_type in _TYPES else []:
        made = line.value.func if isinstance(line.value, ast.Call) else line.value
        if dotted(line.targets[0]) == "self.experts" and "torch.nn.ModuleList" in source.names(made):
            raise UnrecognisedError(line, f"5.0 merges the experts of every model of type {model_type}, this one too")
    yield from ()


RULE = Rule(
    id="expert-names",
    releases="5.0 and later",
    cause=(
        "The checkpoint's experts are merged, as the library's own model of that type wants them, and those of the "
        "file keep random numbers. It is refused."
    ),
    before=(
        "from torch import nn\n"
        "\n"
        "class MoE(nn.Module):\n"
        "    def __init__(self, config):\n"
        "        self.experts = nn.ModuleList([Expert(config) for _ in range(8)])\n"
    ),
    after=None,
    edits=edits,
    others={"config": '{"model_type": "deepseek_v2"}'},
)
