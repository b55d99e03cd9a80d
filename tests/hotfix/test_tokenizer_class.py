import json

import pytest

from tests.hotfix.specification import check_noop, check_transformed

RULE = "tokenizer-class"
#: What GPT-NeoX's tokenizer.json says besides its vocabulary.
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
GPT_NEOX = {
    "added_tokens": [{"id": 0, "content": "<|endoftext|>"}, {"id": 1, "content": "<|padding|>"}],
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": BYTES,
    "post_processor": BYTES,
    "decoder": BYTES,
    "model": {"type": "BPE", "dropout": None, "unk_token": None, "vocab": {}, "merges": []},
}
OTHERS = [
    {"normalizer": None},
    {"normalizer": {"type": "NFKC"}},
    {"pre_tokenizer": {**BYTES, "add_prefix_space": True}},
    {"decoder": None},
    {"post_processor": {"type": "TemplateProcessing", "special_tokens": {"<|endoftext|>": {}}}},
    {"model": {"type": "Unigram"}},
    {"added_tokens": [{"id": 0, "content": "<|endoftext|>"}]},
]


def test_another_tokenizer_is_taken_as_it_is():
    after = '{"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": false}'
    for name in ("GPTNeoXTokenizer", "GPTNeoXTokenizerFast", "TokenizersBackend"):
        check_transformed(RULE, f'{{"tokenizer_class": "{name}", "add_prefix_space": false}}', after)


@pytest.mark.parametrize("changes", OTHERS, ids=[str(n) for n in range(len(OTHERS))])
def test_anything_but_the_recipe_is_another_tokenizer(changes):
    after = '{"tokenizer_class": "PreTrainedTokenizerFast"}'
    tokenizer = json.dumps({**GPT_NEOX, **changes})
    check_transformed(RULE, '{"tokenizer_class": "GPTNeoXTokenizer"}', after, tokenizer=tokenizer)


def test_a_prefix_space_is_another_tokenizer():
    before = '{"tokenizer_class": "GPTNeoXTokenizer", "add_prefix_space": true}'
    after = '{"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": true}'
    check_transformed(RULE, before, after, tokenizer=json.dumps(GPT_NEOX))


@pytest.mark.parametrize("template", [BYTES, None, {"type": "TemplateProcessing", "special_tokens": {}}])
def test_the_class_stays_with_its_own_recipe(template):
    tokenizer = json.dumps({**GPT_NEOX, "post_processor": template})
    for name in ("GPTNeoXTokenizer", "GPTNeoXTokenizerFast"):
        before = f'{{"tokenizer_class": "{name}"}}'
        check_transformed(RULE, before, before[:-1] + ', "pad_token": null}', tokenizer=tokenizer)
    check_noop(RULE, '{"tokenizer_class": "GPTNeoXTokenizer", "pad_token": "<|padding|>"}', tokenizer=tokenizer)


def test_what_5_saved_gets_the_class_back():
    before = '{"tokenizer_class": "TokenizersBackend", "pad_token": null}'
    after = '{"tokenizer_class": "GPTNeoXTokenizer", "pad_token": null}'
    check_transformed(RULE, before, after, tokenizer=json.dumps(GPT_NEOX))


def test_other_classes_stay():
    check_noop(RULE, '{"tokenizer_class": "LlamaTokenizer"}')
    check_noop(RULE, '{"bos_token": "<s>"}')
