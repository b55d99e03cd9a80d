"""Run a model folder without this project: `python plain_inference.py MODEL PROMPTS.json LOGITS.pt`.

It prints, for each prompt, the likeliest next token with its logit and the greedy completion, and saves all logits.
`pipeline.py` runs it once for each release and variant.
"""

import json
import sys
from pathlib import Path

import torch
import transformers.utils
from transformers import AutoModelForCausalLM, AutoTokenizer

# The published file imports a name that is another from 4.54 on.
if not hasattr(transformers.utils, "LossKwargs"):
    transformers.utils.LossKwargs = transformers.utils.TransformersKwargs


def main(model_path: str, prompts: str, results: str) -> None:
    """Load, compute, print and save."""
    tokenizer = AutoTokenizer.from_pretrained(model_path, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(model_path, trust_remote_code=True).eval()
    saved = []
    for prompt in json.loads(Path(prompts).read_text()):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        with torch.inference_mode():
            logits = model(ids).logits[0]
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=16,
                do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            )
        best = logits[-1].argmax()
        print(f"{tokenizer.decode([int(best)])!r} {logits[-1, best].item():.4f}")
        print(tokenizer.decode(output[0, ids.shape[1] :]))
        saved.append(logits)
    torch.save(saved, results)


if __name__ == "__main__":
    main(*sys.argv[1:])
