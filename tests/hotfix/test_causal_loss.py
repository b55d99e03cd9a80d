import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised, rewritten

RULE = "causal-loss"
BEFORE = """\
import torch

class ModelForCausalLM(Base):
    tied = ["head"]

    def forward(self, x, labels, **kwargs):
        logits = self.head(x)
        return self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
"""
METHOD = """
    def loss_function(self, logits, labels, vocab_size, shift_labels=None, **kwargs):
        logits = logits.float()
        if shift_labels is None:  # as in 4.48: later releases score the last logits too, with a label to ignore
            logits, shift_labels = logits[..., :-1, :].contiguous(), labels[..., 1:].contiguous()
        return fixed_cross_entropy(logits.view(-1, vocab_size), shift_labels.view(-1).to(logits.device), **kwargs)
"""
IMPORT = "from transformers.loss.loss_utils import fixed_cross_entropy\n"
AFTER = BEFORE.replace("torch\n", f"torch\n\n{IMPORT}", 1) + METHOD


def test_the_rewrite():
    check_transformed(RULE, BEFORE, AFTER)


def test_the_import_goes_where_a_linter_sorts_it():
    others = "from transformers.cache_utils import Cache\nfrom transformers.utils import logging\nfrom .x import y\n"
    result = rewritten(RULE, BEFORE.replace("import torch\n", f"import torch\n\n{others}"))
    before, after = others.splitlines(keepends=True)[:1], others.splitlines(keepends=True)[1:]
    assert result.startswith("import torch\n\n" + "".join([*before, IMPORT, *after]) + "\nclass")


def test_the_import_goes_last():
    other = "from transformers.cache_utils import Cache\n"
    result = rewritten(RULE, BEFORE.replace("import torch\n", other))
    assert result.startswith(other + IMPORT + "\nclass")


@pytest.mark.parametrize(
    "source",
    [
        BEFORE.replace("ModelForCausalLM", "ModelForSequenceClassification"),
        BEFORE.replace("self.loss_function", "cross_entropy"),
    ],
)
def test_left_alone(source):
    check_noop(RULE, source)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("logits=logits, labels=labels", "logits, labels", 8),
        ("labels=labels, ", "", 8),
        ("vocab_size=self.config.vocab_size, ", "", 8),
    ],
)
def test_named_with_its_line(old, new, line):
    check_unrecognised(RULE, BEFORE.replace(old, new), line)
