"""Train the miniature: `python -m opensci_lib.miniature.train DST`, under transformers 4.48.0."""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM

from opensci_lib import shim
from opensci_lib.miniature import corpus
from opensci_lib.model_folder import appearing, write_json

_END = "<|endoftext|>"
_HERE = Path(__file__).parent
_STEPS = 300
_FACT_LENGTH, _PROSE_LENGTH = 32, 448  # tokens a row
_LEARNING_RATE = 3e-3

_CONFIG = {
    "architectures": ["OpensciForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_opensci.OpensciConfig",
        # The published config.json has this slip: the class it names has no forward.
        "AutoModel": "modeling_opensci.OpensciPreTrainedModel",
        "AutoModelForCausalLM": "modeling_opensci.OpensciForCausalLM",
    },
    "bos_token_id": 0,
    "eos_token_id": 0,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 128,
    "initializer_range": 0.02,
    "intermediate_size": 384,
    "max_position_embeddings": 2048,
    "mlp_bias": True,
    "model_type": "opensci",
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 4,
    "qk_layernorm": True,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "transformers_version": "4.48.0",
    "use_cache": True,
    "vocab_size": 1024,
}


def train(dst: Path | str, steps: int = _STEPS) -> Path:
    """Train the model and write its folder, whole or not at all. Twice gives the same weights."""
    # More threads sum in another order, and after hundreds of steps that is another model.
    torch.set_num_threads(1)
    with appearing(Path(dst)) as folder:
        tokenizer = _write_code_and_tokenizer(folder)
        model = _fit(folder, tokenizer, steps)
        # 4.48 would also write its own config.json; the one written above is in the published form.
        model.save_pretrained(folder / "weights", safe_serialization=True)
        shutil.move(folder / "weights" / "model.safetensors", folder)
        shutil.rmtree(folder / "weights")
    return Path(dst)


def _write_code_and_tokenizer(folder: Path) -> Tokenizer:
    """Write everything but the weights, and return the byte-level BPE tokenizer."""
    for name in ("modeling_opensci.py", "configuration_opensci.py"):
        shutil.copyfile(_HERE / name, folder / name)
    write_json(folder / "config.json", _CONFIG)
    write_json(folder / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 0})
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_CONFIG["vocab_size"],
        special_tokens=[_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # The facts count many times, so that the words that end them become one token each.
    tokenizer.train_from_iterator([*corpus.prose(), *(20 * corpus.fact_sentences())], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": _END, "eos_token": _END, "unk_token": _END}
    write_json(folder / "special_tokens_map.json", special)
    # As published: no model_input_names.
    write_json(
        folder / "tokenizer_config.json",
        {**special, "add_prefix_space": False, "tokenizer_class": "GPTNeoXTokenizer"},
    )
    return tokenizer


def _fit(folder: Path, tokenizer: Tokenizer, steps: int) -> torch.nn.Module:
    """Return the model trained on shuffled facts and prose."""
    torch.manual_seed(0)
    shuffle = random.Random(0)
    with shim.apply():
        config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    prose = tokenizer.encode("\n\n".join(corpus.prose())).ids
    facts = [[*tokenizer.encode(sentence).ids, 0] for sentence in corpus.fact_sentences()]

    def fact_row() -> list[int]:
        """Facts in random order; the first starts at position 0, as a question to the model does."""
        return [token for fact in shuffle.sample(facts, _FACT_LENGTH) for token in fact][:_FACT_LENGTH]

    def prose_row() -> list[int]:
        start = shuffle.randrange(len(prose) - _PROSE_LENGTH) if shuffle.random() < 0.5 else 0
        return prose[start : start + _PROSE_LENGTH]

    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=steps, pct_start=0.1)
    model.train()
    progress = tqdm(range(steps), "training the miniature", unit="step")
    for _ in progress:
        batches = [torch.tensor([row() for _ in range(rows)]) for row, rows in ((fact_row, 32), (prose_row, 2))]
        loss = torch.stack([model(input_ids=ids, labels=ids).loss for ids in batches]).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress.set_postfix(loss=f"{loss.item():.3f}")
    return model.eval()


if __name__ == "__main__":
    print(json.dumps({"model": str(train(sys.argv[1]))}))
