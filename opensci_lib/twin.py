"""A small twin of a decoder: its code and configuration, cut to a size that computes in a second, and random weights.

What a folder's code computes can be compared between releases without its gigabytes. The folder's code is run to
build the twin: in a kernel environment, `python -m opensci_lib.twin FOLDER DST_DIR`.
"""

from __future__ import annotations

import copy
import shutil
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opensci_lib.errors import OpensciError
from opensci_lib.model_folder import HEAD_COUNTS, KEY_HEAD_COUNTS, appearing, code_files, read_config, write_json

LAYERS, HEADS, HEAD_SIZE = 2, 4, 16
WIDTH = HEADS * HEAD_SIZE
VOCABULARY, POSITIONS = 512, 256
_LARGEST = 20_000_000  # parameters
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
#: What configurations call a size, and what it becomes where it is larger.
_SIZES = (
    (_LAYERS, LAYERS),
    (HEAD_COUNTS, HEADS),
    (("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    (("num_experts_per_tok", "moe_top_k", "n_group"), 2),
    (("n_shared_experts", "num_shared_experts", "topk_group", "first_k_dense_replace"), 1),
    (("head_dim", "kv_channels", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "rotary_dim"), HEAD_SIZE),
    (("kv_lora_rank", "q_lora_rank", "moe_intermediate_size", "sliding_window"), 32),
    (("hidden_size", "n_embd", "d_model", "dim", "embedding_size"), WIDTH),
    (("intermediate_size", "ffn_hidden_size", "ffn_dim", "d_ff", "n_inner", "inner_dim"), 96),
    (("vocab_size", "padded_vocab_size", "n_vocab"), VOCABULARY),
    (("max_position_embeddings", "n_positions", "seq_length", "max_seq_len", "n_ctx"), POSITIONS),
    (("original_max_position_embeddings",), POSITIONS // 4),
)
_LIMITS = {name: size for names, size in _SIZES for name in names}
_BY_HEAD = ("short_factor", "long_factor")  # lists with a number for each pair of a head's dimensions


def twin(folder: Path | str, dst_dir: Path | str, seed: int = 0) -> Path:
    """Write a small twin of a model folder, float32, and return it.

    Layers, widths and vocabulary are cut together. Matrices are normal, of variance 1 over their last dimension; to
    vectors, which start as 0 or 1 where they are biases or norms, normal numbers of standard deviation 0.1 are
    added, so that no mistake with them is hidden; where a model leaves a vector to its checkpoint, it starts as 1.
    A tokenizer of single bytes takes the place of the folder's own.

    Args:
        folder: a model folder; its weights and tokenizer need not be there. Its code is run.
        dst_dir: the folder to make; it appears whole or not at all.
        seed: of the random numbers.

    Raises:
        OpensciError: when `dst_dir` exists, or the configuration does not become small.

    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    folder, target = Path(folder).absolute(), Path(dst_dir).absolute()
    if target.exists():
        raise OpensciError(f"{target} exists: give a new folder, or remove it first.")
    written = read_config(folder)
    options = {"trust_remote_code": True} if written.get("auto_map") else {}
    whole = AutoConfig.from_pretrained(folder, **options).to_dict()
    small = {**written, **shrunk(whole), "torch_dtype": "float32"}
    small.pop("dtype", None)
    # transformers calls a folder's code by the folder's name, of which a dot would part imports
    with appearing(target) as partial, tempfile.TemporaryDirectory(prefix="opensci_twin_") as place:
        made = Path(place)
        for file in code_files(folder, written):
            shutil.copyfile(file, made / file.name)
        write_json(made / "config.json", small)
        _write_tokenizer(made)
        config = AutoConfig.from_pretrained(made, **options)
        torch.manual_seed(seed)
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(copy.deepcopy(config), **options)  # some models change it
            count = sum(parameter.numel() for parameter in empty.parameters())
        if count > _LARGEST:
            raise OpensciError(
                f"The configuration of {folder} can't be cut: a twin would have {count} parameters. "
                "Prove the folder itself, with --weights."
            )
        with _nan_where_nothing_is_set():
            model = AutoModelForCausalLM.from_config(config, **options).float()
        with torch.no_grad():
            for parameter in model.parameters():
                draw = torch.randn_like(parameter)
                if parameter.dim() > 1:
                    parameter.copy_(draw / parameter.shape[-1] ** 0.5)
                else:
                    parameter.nan_to_num_(nan=1.0).add_(draw, alpha=0.1)
        tensors = {}
        for name, tensor in model.state_dict().items():
            if all(tensor.data_ptr() != other.data_ptr() for other in tensors.values()):  # of tied ones the first
                tensors[name] = tensor.contiguous()
        save_file(tensors, made / "model.safetensors", {"format": "pt"})
        for file in made.iterdir():
            shutil.copyfile(file, partial / file.name)
    return target


@contextmanager
def _nan_where_nothing_is_set() -> Generator[None]:
    """Let memory that is not initialised hold NaN."""
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def shrunk(config: dict[str, Any]) -> dict[str, Any]:
    """Return the sizes in a configuration that change, and what they become.

    Lists with an entry a layer are cut with the layers; token ids beyond the vocabulary become its last ones.
    """
    small: dict[str, Any] = {}
    layers = next((config[name] for name in _LAYERS if isinstance(config.get(name), int)), None)
    heads = next((config[name] for name in HEAD_COUNTS if isinstance(config.get(name), int)), None)
    for name, value in config.items():
        if isinstance(value, bool) or value is None:
            continue
        if isinstance(value, int) and name in _LIMITS:
            small[name] = min(value, _LIMITS[name])
        elif isinstance(value, int) and name in KEY_HEAD_COUNTS and heads is not None:
            small[name] = HEADS if value == heads else min(value, HEADS // 2)
        elif isinstance(value, int) and name.endswith("_token_id"):
            small[name] = value if value < VOCABULARY else VOCABULARY - 1
        elif isinstance(value, list) and len(value) == layers:
            small[name] = value[:LAYERS]
        elif isinstance(value, list) and name in _BY_HEAD:
            small[name] = value[: HEAD_SIZE // 2]
        elif isinstance(value, list) and name.endswith("_token_id"):
            small[name] = [min(token, VOCABULARY - 1) for token in value]
        elif isinstance(value, dict) and "rope" in name:
            small[name] = {**value, **shrunk(value)}
    return {name: value for name, value in small.items() if value != config[name]}


def _write_tokenizer(folder: Path) -> None:
    """Write a tokenizer whose words are the bytes, of which 0 is the end of text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {"<|endoftext|>": 0} | {character: number for number, character in enumerate(characters, 1)}
    tokenizer = Tokenizer(models.BPE(words, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    write_json(folder / "tokenizer_config.json", {**settings, "model_input_names": ["input_ids", "attention_mask"]})


if __name__ == "__main__":
    print(twin(sys.argv[1], sys.argv[2]))
