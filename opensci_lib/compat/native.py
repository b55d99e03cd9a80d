"""Small decoders of the release's own code: the judges of what the release can do at all."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from opensci_lib.compat.case import Case

#: The sizes of the judges. Head size and layers are those of the smallest model that has all parts.
_SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


@cache
def cases(work: Path) -> dict[str, Case]:
    """Return {name: case} of the native decoders that this release has, made with random weights."""
    return {
        name: Case(_folder(name, work / name), work / f"{name}-work", native=True)
        for name in ("Llama", "Qwen3")
        if hasattr(transformers, f"{name}ForCausalLM")
    }


def _folder(name: str, folder: Path) -> Path:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**_SIZES)
    getattr(transformers, f"{name}ForCausalLM")(config).save_pretrained(folder)
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_ = Tokenizer(models.BPE({"<|endoftext|>": 0} | {c: i for i, c in enumerate(characters, 1)}, []))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    settings: dict[str, Any] = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    settings["model_input_names"] = ["input_ids", "attention_mask"]  # as the tokenizers of both models say
    transformers.PreTrainedTokenizerFast(tokenizer_object=bytes_, **settings).save_pretrained(folder)
    return folder


def llama_of(model: Any) -> Any:
    """Return a native Llama with the sizes and the weights of `model`, which must not norm queries and keys."""
    return _twin(model, transformers.LlamaConfig, transformers.LlamaForCausalLM)


def qwen3_of(model: Any) -> Any:
    """Return a native Qwen3, which norms each head's queries and keys, with the sizes and weights of `model`."""
    return _twin(model, transformers.Qwen3Config, transformers.Qwen3ForCausalLM)


def without_biases(model: Any) -> Any:
    """Return a native Qwen3, or Llama where no queries are normed, of the sizes and weights of `model`, less biases.

    Native models have them in other places in vLLM than in transformers.

    Raises:
        RuntimeError: when the weights are not those of such a model.

    """
    normed = any("q_layernorm" in name or "q_norm" in name for name in model.state_dict())
    name = "Qwen3" if normed else "Llama"
    classes = (getattr(transformers, f"{name}{part}") for part in ("Config", "ForCausalLM"))
    return _twin(model, *classes, biases=False)


def _twin(model: Any, config_class: Any, model_class: Any, biases: bool = True) -> Any:
    names = [*_SIZES, "rms_norm_eps", *(["attention_bias", "mlp_bias"] if biases else [])]
    sizes = {name: getattr(model.config, name) for name in names if hasattr(model.config, name)}
    sizes.setdefault("rope_theta", 10000.0)
    twin = model_class(config_class(**sizes, attn_implementation=model.config._attn_implementation))
    # What open-sci calls a layer norm of queries and keys is q_norm and k_norm elsewhere.
    weights = {
        name.replace("q_layernorm", "q_norm").replace("k_layernorm", "k_norm"): tensor
        for name, tensor in model.state_dict().items()
        if biases or not name.endswith(".bias")
    }
    twin.load_state_dict(weights)
    return twin.eval()
