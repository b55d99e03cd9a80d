"""Leave the last logits out of the loss: there is no token for them to predict.

From 4.49 on releases keep them and give them a label to be ignored. The loss is the same, but the products that make
the gradients have another shape, and with it another order of sums.
"""

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import UnrecognisedError, method

_ARGUMENTS = {"logits", "labels", "vocab_size"}
_CALLED = "fixed_cross_entropy"
_METHOD = f"""\
def loss_function(self, logits, labels, vocab_size, shift_labels=None, **kwargs):
    logits = logits.float()
    if shift_labels is None:  # as in 4.48: later releases score the last logits too, with a label to ignore
        logits, shift_labels = logits[..., :-1, :].contiguous(), labels[..., 1:].contiguous()
    return {_CALLED}(logits.view(-1, vocab_size), shift_labels.view(-1).to(logits.device), **kwargs)
"""


def edits(sources: Sources) -> Edits:
    """Give each causal language model of the file a loss of its own."""
    source = sources.modeling
    changed = False
    for name, owner in source.classes.items():
        calls = source.calls("self.loss_function", owner)
        if not name.endswith("ForCausalLM") or not calls or method(owner, "loss_function"):
            continue
        for call in calls:
            if call.args or not {keyword.arg for keyword in call.keywords} >= _ARGUMENTS:
                raise UnrecognisedError(call, "the loss is given other arguments than in transformers 4.48")
        changed = True
        yield source.last_in(owner, _METHOD)
    if changed:
        yield source.imported("transformers.loss.loss_utils", _CALLED)


_EXAMPLE = """\
import torch
{imported}
class ModelForCausalLM(Base):
    def forward(self, x, labels):
        logits = self.head(x)
        return self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
"""

RULE = Rule(
    id="causal-loss",
    releases="4.49 and later",
    cause=(
        "The loss keeps the last logits, which predict nothing, and gives them a label to be ignored: "
        "products of another shape, so gradients are rounded otherwise."
    ),
    before=_EXAMPLE.format(imported=""),
    after=(
        _EXAMPLE.format(imported=f"\nfrom transformers.loss.loss_utils import {_CALLED}\n")
        + "\n"
        + "".join(f"    {line}\n" for line in _METHOD.splitlines())
    ),
    edits=edits,
)
