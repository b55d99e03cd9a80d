"""A model folder small enough to read: the code shows every symptom, the weights are a few bytes."""

import json
from pathlib import Path

MODELING = '''\
# A licence.
"""A model in the style of transformers 4.48."""

import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import LossKwargs, logging

from .configuration_tiny import TinyConfig


class TinyRotaryEmbedding(nn.Module):
    def __init__(self, config: TinyConfig, device=None):
        super().__init__()
        self.rope_type = "default"
        self.config = config
        self.rope_init_fn = ROPE_INIT_FUNCTIONS[self.rope_type]
        inv_freq, self.attention_scaling = self.rope_init_fn(self.config, device)
        self.register_buffer("inv_freq", inv_freq, persistent=False)


class TinyPreTrainedModel(PreTrainedModel):
    config_class = TinyConfig

    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            module.weight.data.normal_(mean=0.0, std=0.02)


class TinyModel(TinyPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.rotary_emb = TinyRotaryEmbedding(config)

    def forward(self, input_ids):
        return self.embed_tokens(input_ids)


class Kwargs(LossKwargs): ...


class TinyForCausalLM(TinyPreTrainedModel):
    _tied_weights_keys = ["lm_head.weight"]

    def __init__(self, config):
        super().__init__(config)
        self.model = TinyModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def get_input_embeddings(self):
        return self.model.embed_tokens
'''

CONFIGURATION = """\
from transformers.configuration_utils import PretrainedConfig


class TinyConfig(PretrainedConfig):
    model_type = "tiny"
"""

CONFIG = {
    "model_type": "tiny",
    "auto_map": {
        "AutoConfig": "configuration_tiny.TinyConfig",
        "AutoModel": "modeling_tiny.TinyPreTrainedModel",
        "AutoModelForCausalLM": "modeling_tiny.TinyForCausalLM",
    },
    "vocab_size": 4,
}


def make_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "modeling_tiny.py").write_text(MODELING)
    (path / "configuration_tiny.py").write_text(CONFIGURATION)
    (path / "config.json").write_text(json.dumps(CONFIG, indent=2))
    (path / "tokenizer.json").write_text("{}")
    header = json.dumps({"weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    return path
