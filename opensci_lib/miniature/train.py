"""Train the miniature under transformers 4.48.0, from the root of the project.

environments/transformers-4.48.0/bin/python -m opensci_lib.miniature.train DST > trained.json

writes the model folder DST, and the record of its training. The shipped ones are `opensci_lib/miniature/model` and
`opensci_lib/miniature/trained.json`. On another processor the same training gives other weights.
"""

from __future__ import annotations

import hashlib
import json
import platform
import random
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from opensci_lib import shim
from opensci_lib.miniature import MODEL, corpus
from opensci_lib.model_folder import appearing, files, follow_umask, read_config

_END = "<|endoftext|>"
_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors")

SETTINGS: dict[str, Any] = {
    "seed": 0,
    "steps": 300,
    "fact_rows": 32,
    "fact_length": 32,  # tokens
    "prose_rows": 2,
    "prose_length": 448,  # tokens
    "learning_rate": 3e-3,
    "warm_up": 0.1,  # of the steps
    "betas": [0.9, 0.95],
    "weight_decay": 0.01,
    "largest_gradient": 1.0,
    "stored_as": "bfloat16",
}


def train(dst: Path | str, steps: int = SETTINGS["steps"]) -> dict[str, Any]:
    """Train the model, write its folder, whole or not at all, and return the record of what it was made of.

    Configuration and code are those of the shipped folder. Twice on one processor gives the same weights.
    """
    import torch

    # More threads sum in another order, and after hundreds of steps that is another model.
    torch.set_num_threads(1)
    with appearing(Path(dst)) as folder:
        for file in files(MODEL):
            shutil.copyfile(file, folder / file.name)
        tokenizer = _train_tokenizer(folder)
        model = _fit(folder, tokenizer, steps)
        # config.json keeps float32, so that the model computes in float32 with the rounded weights.
        model.to(getattr(torch, SETTINGS["stored_as"])).save_pretrained(folder / "weights", safe_serialization=True)
        # 4.48 would also write its own config.json; the shipped one is in the published form.
        shutil.move(folder / "weights" / "model.safetensors", folder / "model.safetensors")
        follow_umask(folder / "model.safetensors")
        shutil.rmtree(folder / "weights")
        return {
            "made_of": made_of(steps),
            "made": {name: _sha256((folder / name).read_bytes()) for name in ("model.safetensors", "tokenizer.json")},
            "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
            "processor": f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}",
        }


def made_of(steps: int = SETTINGS["steps"]) -> dict[str, Any]:
    """Return what the weights depend on: the settings, and hashes of the texts and of config.json."""
    return {
        "settings": {**SETTINGS, "steps": steps},
        "corpus": _sha256("\n".join([*corpus.fact_sentences(), *corpus.prose()]).encode()),
        "config.json": _sha256((MODEL / "config.json").read_bytes()),
    }


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _train_tokenizer(folder: Path) -> Any:
    """Write and return the byte-level BPE tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=read_config(folder)["vocab_size"],
        special_tokens=[_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # The facts count many times, so that the words that end them become one token each.
    tokenizer.train_from_iterator([*corpus.prose(), *(20 * corpus.fact_sentences())], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def _fit(folder: Path, tokenizer: Any, steps: int) -> Any:
    """Return the model trained on shuffled facts and prose."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(SETTINGS["seed"])
    shuffle = random.Random(SETTINGS["seed"])
    with shim.apply():
        config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    prose = tokenizer.encode("\n\n".join(corpus.prose())).ids
    facts = [[*tokenizer.encode(sentence).ids, 0] for sentence in corpus.fact_sentences()]
    fact_length, prose_length = SETTINGS["fact_length"], SETTINGS["prose_length"]

    def fact_row() -> list[int]:
        """Facts in random order; the first starts at position 0, as a question to the model does."""
        return [token for fact in shuffle.sample(facts, fact_length) for token in fact][:fact_length]

    def prose_row() -> list[int]:
        start = shuffle.randrange(len(prose) - prose_length) if shuffle.random() < 0.5 else 0
        return prose[start : start + prose_length]

    kinds = ((fact_row, SETTINGS["fact_rows"]), (prose_row, SETTINGS["prose_rows"]))
    rate, decay = SETTINGS["learning_rate"], SETTINGS["weight_decay"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=SETTINGS["betas"], weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=SETTINGS["warm_up"])
    model.train()
    progress = tqdm(range(steps), "training the miniature", unit="step")
    for _ in progress:
        batches = [torch.tensor([row() for _ in range(rows)]) for row, rows in kinds]
        loss = torch.stack([model(input_ids=ids, labels=ids).loss for ids in batches]).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), SETTINGS["largest_gradient"])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress.set_postfix(loss=f"{loss.item():.3f}")
    return model.eval()


if __name__ == "__main__":
    print(json.dumps(train(sys.argv[1]), indent=2))
