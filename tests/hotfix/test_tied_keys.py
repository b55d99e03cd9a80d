import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised

RULE = "tied-keys"
GETTER = "    def get_input_embeddings(self):\n        return self.model.embed_tokens\n"


def head(keys: str, rest: str = GETTER) -> str:
    return f"class ForCausalLM(PreTrainedModel):\n    _tied_weights_keys = {keys}\n{rest}"


@pytest.mark.parametrize(
    "source",
    [
        head('{"lm_head.weight": "model.embed_tokens.weight"}'),
        head("None"),
        "class ForCausalLM(PreTrainedModel):\n    _tied_weights_keys: dict\n",
        "class ForCausalLM(PreTrainedModel):\n    other = ['lm_head.weight']\n",
        "_tied_weights_keys = ['lm_head.weight']\n",
    ],
)
def test_left_alone(source):
    check_noop(RULE, source)


@pytest.mark.parametrize(
    "keys", ["['lm_head.weight']", '["lm_head.weight",]', '("lm_head.weight",)', '{"lm_head.weight"}']
)
def test_any_literal_collection(keys):
    inner = keys[1:-1].replace("weight'", "weight': X").replace('weight"', 'weight": X')
    after = f"{{{inner}}}".replace("X", '"model.embed_tokens.weight"')
    check_transformed(RULE, head(keys), head(after))


def test_an_annotated_assignment():
    before = f'class A(PreTrainedModel):\n    _tied_weights_keys: list = ["lm_head.weight"]\n{GETTER}'
    after = before.replace('["lm_head.weight"]', '{"lm_head.weight": "model.embed_tokens.weight"}')
    check_transformed(RULE, before, after)


def test_the_embedding_is_found_through_the_modules_without_a_getter():
    modules = (
        "    def __init__(self, config):\n"
        "        self.decoder = Decoder(config)\n"
        "        self.out = nn.Linear(2, 2)\n"
        "class Decoder(PreTrainedModel):\n"
        "    def __init__(self, config):\n"
        "        self.words = nn.Embedding(2, 2)\n"
    )
    imported = "from torch import nn\n"
    check_transformed(
        RULE,
        imported + head('["out.weight"]', modules),
        imported + head('{"out.weight": "decoder.words.weight"}', modules),
    )


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (head("KEYS"), 2),
        (head("[KEY]"), 2),
        (head('["lm_head.bias"]'), 2),
        (head('["lm_head.weight"]', ""), 1),
    ],
)
def test_named_with_its_line(source, line):
    check_unrecognised(RULE, source, line)
