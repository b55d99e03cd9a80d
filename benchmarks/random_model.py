"""Write a model of a published shape with random weights: for trying the pipeline at full size, offline.

uv run python benchmarks/random_model.py --like 1.7b --dst_dir random-1.7b
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tqdm import tqdm

from opensci_lib.download import MINIATURE, download
from opensci_lib.errors import OpensciError
from opensci_lib.model_folder import appearing, read_config, write_json

_LARGE = {
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 64,
    "vocab_size": 50304,
}
#: What published configurations set differently from the miniature's. 1.3B is `sample/config.json` of
#: https://github.com/LAION-AI/Open-Sci-hf, 1.7B is open-sci/open-sci-ref-v0.01-1.7b-nemotron-hq-1T-16384 on the Hub.
SIZES: dict[str, dict[str, Any]] = {
    "1.3b": {**_LARGE, "intermediate_size": 5440, "max_position_embeddings": 2048},
    "1.7b": {**_LARGE, "intermediate_size": 8192, "max_position_embeddings": 16384},
}
_SHARD_BYTES = 2**30


def random_model(like: str, dst_dir: Path | str, seed: int = 0, **changes: Any) -> Path:
    """Write a model folder with the shape of `like` and random bfloat16 weights, and return it.

    Weights are normal with the configuration's `initializer_range`, norms one; the same seed gives the same
    bytes. Memory holds a shard at a time, of a GiB. Code and tokenizer are the miniature's,
    whose ids fill only the start of the vocabulary.

    Args:
        like: a name that contains one of `SIZES`, such as a Hub id of the family.
        dst_dir: the folder to make; it appears whole or not at all.
        seed: of the random numbers.
        changes: other values for config.json, such as `num_hidden_layers`.

    Raises:
        OpensciError: when the shape is not known or `dst_dir` exists.

    """
    sizes = [size for size in SIZES if size in like.lower()]
    if not sizes:
        raise OpensciError(f"The shape of {like!r} is not known: give a name that contains {' or '.join(SIZES)}.")
    if Path(dst_dir).exists():
        raise OpensciError(f"{dst_dir} exists: give a new folder, or remove it first.")
    miniature = Path(download(MINIATURE).path)
    config = {**read_config(miniature), **SIZES[sizes[0]], "torch_dtype": "bfloat16", **changes}
    with appearing(Path(dst_dir)) as folder:
        for file in miniature.iterdir():
            if file.suffix in (".py", ".json") and file.name not in ("config.json", "download.json"):
                shutil.copyfile(file, folder / file.name)
        write_json(folder / "config.json", config)
        _write_shards(folder, dict(tensor_shapes(config)), float(config["initializer_range"]), seed)
    return Path(dst_dir)


def tensor_shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and shape of each tensor in the checkpoint of a configuration."""
    hidden, inner, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
        for name, rows, columns in (
            ("self_attn.q_proj", queries, hidden),
            ("self_attn.k_proj", keys, hidden),
            ("self_attn.v_proj", keys, hidden),
            ("self_attn.o_proj", hidden, queries),
            ("mlp.gate_proj", inner, hidden),
            ("mlp.up_proj", inner, hidden),
            ("mlp.down_proj", hidden, inner),
        ):
            yield f"{prefix}.{name}.weight", (rows, columns)
            if config["attention_bias" if name.startswith("self_attn") else "mlp_bias"]:
                yield f"{prefix}.{name}.bias", (rows,)
        if config["qk_layernorm"]:
            yield f"{prefix}.self_attn.q_layernorm.weight", (size,)
            yield f"{prefix}.self_attn.k_layernorm.weight", (size,)
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], hidden)


def _write_shards(folder: Path, shapes: dict[str, tuple[int, ...]], scale: float, seed: int) -> None:
    """Write the tensors as safetensors files with an index."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        if shards[-1] and filled + size > _SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    draw = np.random.default_rng(seed)
    weight_map = {}
    total = 2 * sum(int(np.prod(shape)) for shape in shapes.values())
    with tqdm(total=len(shapes), desc="random weights", unit=" tensors") as progress:
        for number, names in enumerate(shards, 1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            tensors = {}
            for name in names:
                tensors[name] = _values(name, shapes[name], scale, draw)
                progress.update()
            save_file(tensors, folder / file, {"format": "pt"})
            weight_map |= dict.fromkeys(names, file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def _values(name: str, shape: tuple[int, ...], scale: float, draw: np.random.Generator) -> np.ndarray:
    """Return a tensor's values, bfloat16."""
    if "norm" in name:
        return np.ones(shape, ml_dtypes.bfloat16)
    return (draw.standard_normal(shape, np.float32) * np.float32(scale)).astype(ml_dtypes.bfloat16)


@click.command()
@click.option(
    "--like", required=True, help="A Hub id of the family, for its shape: open-sci/open-sci-ref-v0.01-1.7b-…"
)
@click.option("--dst_dir", required=True, type=click.Path(), help="The folder to make.")
@click.option("--seed", default=0, show_default=True)
@click.option("--num_hidden_layers", type=click.IntRange(1), help="Fewer layers than the published model has.")
def main(like: str, dst_dir: str, seed: int, num_hidden_layers: int | None) -> None:
    """Write a model of a published shape with random bfloat16 weights."""
    changes = {} if num_hidden_layers is None else {"num_hidden_layers": num_hidden_layers}
    click.echo(random_model(like, dst_dir, seed, **changes))


if __name__ == "__main__":
    main()
