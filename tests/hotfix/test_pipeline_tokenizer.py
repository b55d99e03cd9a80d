from tests.hotfix.specification import check_noop

RULE = "pipeline-tokenizer"


def test_a_class_that_is_named_stays():
    check_noop(RULE, '{"tokenizer_class": "LlamaTokenizer"}')
