from tests.hotfix.specification import check_noop, check_transformed

RULE = "tokenizer-class"


def test_both_names_of_the_class():
    after = '{"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": false}'
    for name in ("GPTNeoXTokenizer", "GPTNeoXTokenizerFast"):
        check_transformed(RULE, f'{{"tokenizer_class": "{name}", "add_prefix_space": false}}', after)


def test_other_classes_stay():
    check_noop(RULE, '{"tokenizer_class": "LlamaTokenizer"}')
    check_noop(RULE, '{"bos_token": "<s>"}')
