"""The code of the hand-made model folder: an embedding, a layer that only rotates, and a head."""

from pathlib import Path

import torch
from torch import nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class TinyConfig(PretrainedConfig):
    model_type = "tiny"


def rotate_half(x):
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def apply_rotary_pos_emb(q, k, cos, sin):
    return tuple(x * cos[:, None] + rotate_half(x) * sin[:, None] for x in (q, k))


class Rotary(nn.Module):
    def forward(self, x):
        # set here, not before: a capture has what the buffer holds once it was used
        self.inv_freq = torch.tensor([1.0, 0.5, 0.25, 0.125], device=x.device)
        angles = torch.arange(x.shape[1], device=x.device)[:, None] * self.inv_freq
        angles = torch.cat([angles, angles], dim=-1)[None]
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


class Attention(nn.Module):
    """One head of queries, two of keys (the second is half the first); gives back (what came in, nothing)."""

    def forward(self, x, cos, sin):
        q, k = apply_rotary_pos_emb(x[:, None], torch.stack([x, x / 2], dim=1), cos, sin)
        self.trace = {"q_rope": q[0, 0], "k_rope": torch.cat([k[0, 0], k[0, 1]], dim=-1)}
        return x, None


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn = Attention()

    def forward(self, x, cos, sin):
        return self.self_attn(x, cos, sin)[0]


class Decoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([Layer()])
        self.rotary_emb = Rotary()

    def forward(self, ids):
        x = self.embed_tokens(ids)
        cos, sin = self.rotary_emb(x)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return x


class TinyForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = TinyConfig
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        if complaint := getattr(config, "complaint_of_loading", None):
            raise RuntimeError(complaint)
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module):
        pass

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def get_output_embeddings(self):
        return self.lm_head

    def to(self, *args, **kwargs):
        """Refuse the device as one whose memory is too small would, where the configuration says so."""
        if complaint := getattr(self.config, "complaint_of_device", None):
            raise torch.OutOfMemoryError(complaint)
        return super().to(*args, **kwargs)

    def forward(self, input_ids, attention_mask=None, use_cache=None, **ignored):
        if log := getattr(self.config, "log", None):
            with Path(log).open("a") as file:
                file.write(f"{len(input_ids)}\n")
        if len(input_ids) > getattr(self.config, "most_rows", len(input_ids)):
            raise RuntimeError(self.config.complaint)
        return CausalLMOutput(logits=self.lm_head(self.model(input_ids)))
