from tests.hotfix.specification import check_noop, check_transformed

RULE = "pipeline-tokenizer"


def test_the_class_that_loads_tokenizer_json_is_named():
    check_transformed(
        RULE,
        '{"b": 1, "model_type": "opensci"}',
        '{"b": 1, "model_type": "opensci", "tokenizer_class": "PreTrainedTokenizerFast"}',
        tokenizer_config="{}",
    )


def test_a_class_that_is_named_stays():
    check_noop(RULE, '{"tokenizer_class": "LlamaTokenizer"}', tokenizer_config="{}")


def test_a_folder_without_tokenizer_settings_is_left_alone():
    check_noop(RULE, '{"model_type": "opensci"}')
