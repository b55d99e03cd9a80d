from tests.hotfix.specification import check_noop, check_transformed

RULE = "model-input-names"


def test_the_rest_stays_in_its_order():
    before = '{"b": 1, "a": {"c": []}}'
    check_transformed(RULE, before, before[:-1] + ', "model_input_names": ["input_ids", "attention_mask"]}')


def test_names_that_are_there_stay():
    check_noop(RULE, '{"model_input_names": ["input_ids"]}')
