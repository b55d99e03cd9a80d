import pytest

from tests.hotfix.specification import check_noop, check_transformed, example

RULE = "tie-word-embeddings"
BEFORE, AFTER = example(RULE)


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
