import copy

import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised

RULE = "tied-weights"
METHOD = """
    def mark_tied_weights_as_initialized(self, *args):
        # transformers 5.3 drops those to be tied from what is missing, and leaves them empty
        super().mark_tied_weights_as_initialized(*map(copy.copy, args))
"""
MODEL = "import torch\n\nclass ForCausalLM(PreTrainedModel):\n    {}\n    main = 1\n"


@pytest.mark.parametrize(
    "line",
    [
        '_tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}',
        '_tied_weights_keys = ["lm_head.weight"]',
        '_tied_weights_keys: dict = {"lm_head.weight": "model.embed_tokens.weight"}',
    ],
)
def test_a_class_with_tied_weights_gets_the_method(line):
    check_transformed(RULE, MODEL.format(line), f"import copy\n\n{MODEL.format(line)}{METHOD}")


@pytest.mark.parametrize(
    "source",
    [
        MODEL.format("_tied_weights_keys = None"),
        MODEL.format("other = ['lm_head.weight']"),
        "_tied_weights_keys = []\n",
    ],
)
def test_left_alone(source):
    check_noop(RULE, source)


def test_a_file_that_imports_nothing_first_is_named():
    source = MODEL.format("_tied_weights_keys = ['lm_head.weight']").removeprefix("import torch\n\n")
    check_unrecognised(RULE, f"{source}import torch\n", 1)


class Info:
    def __init__(self, *keys: str):
        self.missing_keys = {*keys}


class Library:
    """Of each release: what it does with what it is given."""

    def mark_tied_weights_as_initialized(self, *infos):
        for info in infos:
            info.missing_keys = {key for key in info.missing_keys if key != "lm_head.weight"}


def test_it_undoes_what_5_3_does_and_takes_no_argument_where_the_release_gives_none():
    scope: dict = {"Library": Library, "copy": copy}
    exec("class Model(Library):" + METHOD.replace("super()", "super(Model, self)"), scope)
    info = Info("lm_head.weight", "score.weight")
    scope["Model"]().mark_tied_weights_as_initialized(info)
    assert info.missing_keys == {"lm_head.weight", "score.weight"}
    scope["Model"]().mark_tied_weights_as_initialized()
