import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised

RULE = "causal-loss"
BEFORE = """\
import torch

class ModelForCausalLM(Base):
    tied = ["head"]

    def forward(self, x, labels, **kwargs):
        logits = self.head(x)
        return self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
"""
AFTER = """\
import torch

# As in transformers 4.48: later releases score the last logits too, against a label that is ignored.
def causal_lm_loss(
    logits, labels, vocab_size, num_items_in_batch=None, ignore_index=-100, shift_labels=None, **kwargs
):
    logits = logits.float()
    if shift_labels is None:
        logits, shift_labels = logits[..., :-1, :].contiguous(), labels[..., 1:].contiguous()
    loss = torch.nn.functional.cross_entropy(
        logits.view(-1, vocab_size),
        shift_labels.view(-1).to(logits.device),
        ignore_index=ignore_index,
        reduction="mean" if num_items_in_batch is None else "sum",
    )
    return loss if num_items_in_batch is None else loss / torch.as_tensor(num_items_in_batch, device=loss.device)


class ModelForCausalLM(Base):
    loss_function = staticmethod(causal_lm_loss)
    tied = ["head"]

    def forward(self, x, labels, **kwargs):
        logits = self.head(x)
        return self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
"""


def test_the_rewrite():
    check_transformed(RULE, BEFORE, AFTER)


def test_above_decorators_and_below_the_docstring():
    before, after = (
        source.replace("class Model", "@decorated\nclass Model").replace("(Base):\n", '(Base):\n    """Doc."""\n\n')
        for source in (BEFORE, AFTER)
    )
    check_transformed(RULE, before, after)


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
        ("import torch", "import numpy", 3),
    ],
)
def test_named_with_its_line(old, new, line):
    check_unrecognised(RULE, BEFORE.replace(old, new), line)
