import json

import pytest

from tests.hotfix.specification import check_noop, check_transformed

RULE = "local-code"
MODELING = "class XForCausalLM(Base): ...\n"
CONFIGURATION = "class XConfig(Base): ...\n"


def config(prefix: str = "", **others: object) -> str:
    entries = {
        "AutoConfig": f"{prefix}configuration_x.XConfig",
        "AutoModelForCausalLM": f"{prefix}modeling_x.XForCausalLM",
    }
    return json.dumps({"auto_map": {**entries, **others}}, indent=2)


@pytest.mark.parametrize("repository", ["org/name", "name", "a-b/c.d--e"])
def test_code_that_is_here_is_taken_from_here(repository):
    check_transformed(RULE, config(f"{repository}--"), config(), modeling=MODELING, configuration=CONFIGURATION)


def test_code_that_is_elsewhere_stays_there():
    foreign = {"AutoTokenizer": ["org/name--tokenization_x.XTokenizer", None]}
    check_noop(RULE, config(**foreign), modeling=MODELING, configuration=CONFIGURATION)


def test_a_folder_without_auto_map_is_left_alone():
    check_noop(RULE, "{}", modeling=MODELING)
