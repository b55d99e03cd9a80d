"""A model folder made by hand, whose every number follows on paper.

Eight words, `<end> a b c d e f g`; after each the model expects the next one of the circle: its logit is 3, all
others are 0. So log p is `RIGHT` for the expected word and `WRONG` for any other, whatever came before.
"""

import json
import math
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

WORDS = ["<end>", *"abcdefg"]
LOGIT = 3.0
RIGHT = LOGIT - math.log(math.exp(LOGIT) + len(WORDS) - 1)
WRONG = RIGHT - LOGIT
#: Of the rotary embedding: a rotation speed for each pair of the eight features.
INV_FREQ = [1.0, 0.5, 0.25, 0.125]


def weights() -> dict[str, np.ndarray]:
    """Return the checkpoint's tensors: the word itself, one-hot, and the head that turns it into the next one."""
    circle = np.eye(len(WORDS), dtype=np.float32)
    return {"model.embed_tokens.weight": circle, "lm_head.weight": LOGIT * np.roll(circle, 1, axis=0)}


def write(folder: Path, **changes) -> Path:
    """Write the folder, its config.json with changes, in two shards, and return its path."""
    folder.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("modeling_tiny.py"), folder)
    config = {
        "model_type": "tiny",
        "architectures": ["TinyForCausalLM"],
        "auto_map": {
            "AutoConfig": "modeling_tiny.TinyConfig",
            "AutoModelForCausalLM": "modeling_tiny.TinyForCausalLM",
        },
        "vocab_size": len(WORDS),
        "hidden_size": len(WORDS),
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 3000,
        "tie_word_embeddings": False,
        "use_cache": False,
        "eos_token_id": 0,
        "torch_dtype": "float32",
        **changes,
    }
    shards = {}
    for number, (name, tensor) in enumerate(weights().items(), start=1):
        shards[name] = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensor}, folder / shards[name], metadata={"format": "pt"})
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {"id": 0, "content": WORDS[0], "special": True, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False}
        ],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(WORDS)}, "unk_token": WORDS[0]},
    }  # fmt: skip
    for name, value in {
        "config.json": config,
        "model.safetensors.index.json": {"metadata": {"total_size": 512}, "weight_map": shards},
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": WORDS[0]},
    }.items():
        (folder / name).write_text(json.dumps(value, indent=1))
    return folder
