"""The Auto classes and the pipeline."""

import torch
import transformers

from opensci_lib.compat import feature
from opensci_lib.compat.case import NEW_TOKENS, TEXTS, Case, expect, expect_close, expect_equal, greedy, logits


@feature("AutoModelForCausalLM", basic=True)
def causal_lm(case: Case) -> None:
    model = case.load()
    expect(type(model).__name__.endswith("ForCausalLM"), f"it gave a {type(model).__name__}")
    vocabulary = model.get_input_embeddings().weight.shape[0]
    expect_equal(logits(model, case.ids[0]).shape[-1], vocabulary, "logits at each position")


@feature("AutoModel")
@torch.no_grad()
def base(case: Case) -> None:
    model = case.load("AutoModel")
    states = model(case.ids[1], use_cache=False).last_hidden_state
    expect_equal(
        case.model.get_output_embeddings()(states), logits(case.model, case.ids[1]), "logits from its states"
    )


@feature("AutoModelForSequenceClassification")
@torch.no_grad()
def classification(case: Case) -> None:
    poor = case.edited(num_labels=3, pad_token_id=0)
    model = poor.load("AutoModelForSequenceClassification")
    ids = case.ids[1]
    found = model(ids).logits
    states = poor.load("AutoModel")(ids, use_cache=False).last_hidden_state
    expect_close(found, model.score(states[:, -1]), "class logits from the last token's state")


@feature("AutoConfig")
def config(case: Case) -> None:
    import json

    found = transformers.AutoConfig.from_pretrained(case.folder, trust_remote_code=True).to_dict()
    written = json.loads((case.folder / "config.json").read_text(encoding="utf-8"))
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "tie_word_embeddings"):
        expect_equal(found[name], written[name], name)


@feature("AutoTokenizer")
def tokenizer(case: Case) -> None:
    from tokenizers import Tokenizer

    right = Tokenizer.from_file(str(case.folder / "tokenizer.json"))
    for text in TEXTS:
        expect_equal(case.tokenizer(text)["input_ids"], right.encode(text).ids, "ids as tokenizer.json has them")


@feature('pipeline("text-generation")')
def pipeline(case: Case) -> None:
    given = transformers.pipeline("text-generation", model=str(case.folder), trust_remote_code=True, device="cpu")
    found = given(TEXTS[0], max_new_tokens=NEW_TOKENS, do_sample=False, return_full_text=False)
    ids = torch.tensor([case.tokenizer(TEXTS[0])["input_ids"]])
    right = greedy(case, ids, model=given.model)
    expect_equal(found[0]["generated_text"], case.tokenizer.decode(right, skip_special_tokens=True), "text")
