"""Leave the last logits out of the loss: there is no token for them to predict.

From 4.49 on releases keep them and give them a label to be ignored. The loss is the same, but the products that make
the gradients have another shape, and with it another order of sums.
"""

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import UnrecognisedError

_ARGUMENTS = {"logits", "labels", "vocab_size"}
_FUNCTION = """\
# As in transformers 4.48: later releases score the last logits too, against a label that is ignored.
def causal_lm_loss(
    logits, labels, vocab_size, num_items_in_batch=None, ignore_index=-100, shift_labels=None, **kwargs
):
    logits = logits.float()
    if shift_labels is None:
        logits, shift_labels = logits[..., :-1, :].contiguous(), labels[..., 1:].contiguous()
    loss = {torch}.nn.functional.cross_entropy(
        logits.view(-1, vocab_size),
        shift_labels.view(-1).to(logits.device),
        ignore_index=ignore_index,
        reduction="mean" if num_items_in_batch is None else "sum",
    )
    return loss if num_items_in_batch is None else loss / {torch}.as_tensor(num_items_in_batch, device=loss.device)


"""
_ATTRIBUTE = "loss_function = staticmethod(causal_lm_loss)\n"


def edits(sources: Sources) -> Edits:
    """Give each causal language model of the file a loss of its own."""
    source = sources.modeling
    owners = []
    for name, owner in source.classes.items():
        calls = source.calls("self.loss_function", owner)
        if not name.endswith("ForCausalLM") or not calls or "causal_lm_loss" in source.code(owner):
            continue
        for call in calls:
            if call.args or not {keyword.arg for keyword in call.keywords} >= _ARGUMENTS:
                raise UnrecognisedError(call, "the loss is given other arguments than in transformers 4.48")
        owners.append(owner)
        yield source.first_in(owner, _ATTRIBUTE)
    if not owners:
        return
    if (torch := source.name_of("torch")) is None:
        raise UnrecognisedError(owners[0], "the file does not import torch")
    yield source.before(owners[0], _FUNCTION.format(torch=torch))


_EXAMPLE = """\
import torch

{function}class ModelForCausalLM(Base):
{attribute}    def forward(self, x, labels):
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
    before=_EXAMPLE.format(function="", attribute=""),
    after=_EXAMPLE.format(function=_FUNCTION.format(torch="torch"), attribute=f"    {_ATTRIBUTE}"),
    edits=edits,
)
