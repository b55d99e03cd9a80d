import pytest

from tests.hotfix.specification import check_noop, check_transformed

RULE = "tie-word-embeddings"
BEFORE = """\
class Config(PretrainedConfig):
    def __init__(self, tie_word_embeddings=False, **kwargs):
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)
"""
AFTER = """\
class Config(PretrainedConfig):
    def __init__(self, tie_word_embeddings=False, **kwargs):
        self.tie_word_embeddings = tie_word_embeddings
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)
"""


def test_the_rewrite():
    check_transformed(RULE, BEFORE, AFTER)


def test_comments_stay_above():
    comment = "        # for backward compatibility\n"
    check_transformed(
        RULE,
        BEFORE.replace("        super()", f"{comment}        super()"),
        AFTER.replace("        self.tie", f"{comment}        self.tie"),
    )


@pytest.mark.parametrize(
    "source",
    [
        BEFORE.replace("self, tie_word_embeddings=False, ", "self, "),
        BEFORE.replace("class Config(PretrainedConfig)", "class Config").replace("super().__init__", "print"),
        "tie_word_embeddings = True\n",
    ],
)
def test_left_alone(source):
    check_noop(RULE, source)
