"""Runs made by hand: a few numbers, worked out on paper, in the files that `infer.ipynb` writes."""

import json
from pathlib import Path

import numpy as np

from opensci_lib.reports.compare import Run
from opensci_lib.runs.capture import CaptureWriter

STAGES = ["model.embed_tokens", "model.layers.0.self_attn.q_rope", "model.layers.0.self_attn", "lm_head"]


def tensors(positions: int = 3, **changes: np.ndarray) -> dict[str, np.ndarray]:
    """Return what a capture of one prompt holds, with some tensors replaced.

    Three positions over two words, and a head of four dimensions that turns by 0.5 and 0.25 radians a token.
    """
    angles = np.outer(np.arange(positions), [0.5, 0.25, 0.5, 0.25]).astype(np.float32)
    logits = np.array([[0.0, 1.0], [2.0, 0.0], [4.0, 1.0]], np.float32)[np.arange(positions) % 3]
    plain = {
        "token_ids": np.arange(positions),
        "logits": logits,
        "next_logits": logits[-1],
        "surprisal": np.arange(1.0, positions),
        "cos": np.cos(angles),
        "sin": np.sin(angles),
        "inv_freq": np.array([0.5, 0.25], np.float32),
        "fingerprints": np.arange(len(STAGES) * positions).reshape(len(STAGES), positions),
    }
    return {**plain, **changes}


def make_run(
    outputs: Path,
    tf_version: str = "4.48.0",
    variant: str = "original",
    prompts: tuple[dict[str, np.ndarray], ...] = ({},),
    stages: list[str] = STAGES,
    **record: object,
) -> Run:
    """Write a run's folder below `outputs`; `prompts` are changes of `tensors`, `record` those of `run.json`."""
    folder = outputs / tf_version / variant
    folder.mkdir(parents=True)
    texts = [f"prompt number {number}" for number in range(len(prompts))]
    whole = [tensors(**changes) for changes in prompts]
    with CaptureWriter(folder / "capture.safetensors", texts) as writer:
        writer.stages = stages
        for number, prompt in enumerate(whole):
            for name, array in prompt.items():
                writer.add(f"{number}.{name}", array)
    written = {
        "variant": variant,
        "versions": {
            "transformers": tf_version, "torch": "2.13.0", "tokenizers": "0.21.0", "safetensors": "0.5.0",
            "python": "3.11.9",
        },
        "settings": {"dtype": "float32", "device": "cpu", "attn_implementation": "sdpa"},
        "machine": {"torch_threads": 2, "peak_memory_of": "run"},
        "seconds": {"import": 1.5, "load": 2.25, "forward": 0.5},
        "peak_memory_bytes": {"load": 100 * 2**20, "forward": 300 * 2**20},
        "prompts": texts,
        "completions": [" Paris."] * len(texts),
        "tokens": [["word"] * len(prompt["token_ids"]) for prompt in whole],
        "top_tokens": [[{"token": " Paris", "logit": 4.0}, {"token": " Rome", "logit": 1.5}]] * len(texts),
        "weights": {"tensors": 74, "differing": []},
        **record,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(written))
    return Run(folder)
