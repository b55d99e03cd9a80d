import json

import pytest

from tests.hotfix.specification import check_noop, check_transformed

RULE = "save-code"
LINE = '    _auto_class = "{}"  # so that save_pretrained copies this file\n\n'
CONFIG = json.dumps(
    {
        "auto_map": {
            "AutoConfig": "configuration_x.Config",
            "AutoModel": "modeling_x.Model",
            "AutoModelForCausalLM": "modeling_x.ForCausalLM",
            "AutoTokenizer": [None, "tokenization_x.Tokenizer"],
        }
    }
)


def test_each_class_by_its_own_auto_class():
    model = "class Model(Base):\n{}    def forward(self): ...\n"
    head = 'class ForCausalLM(Base):\n    """Doc."""\n{}    def forward(self): ...\n'
    check_transformed(
        RULE,
        (model + head).format("", ""),
        (model + head).format(LINE.format("AutoModel"), LINE.format("AutoModelForCausalLM")),
        config=CONFIG,
    )


def test_a_class_that_has_it_speaks_for_itself_alone():
    has = 'class Model(Base):\n    _auto_class = "AutoModel"\n    def forward(self): ...\n'
    head = "class ForCausalLM(Base):\n{}    def forward(self): ...\n"
    check_transformed(
        RULE, has + head.format(""), has + head.format(LINE.format("AutoModelForCausalLM")), config=CONFIG
    )


@pytest.mark.parametrize(
    "source",
    [
        "class Model(Base): ...\n",  # no forward: all classes would inherit it
        'class Model(Base):\n    _auto_class = "AutoModel"\n    def forward(self): ...\n',
        "class Other(Base):\n    def forward(self): ...\n",
    ],
)
def test_left_alone(source):
    check_noop(RULE, source, config=CONFIG)


def test_a_folder_without_auto_map_is_left_alone():
    check_noop(RULE, "class Model(Base):\n    def forward(self): ...\n", config="{}")
