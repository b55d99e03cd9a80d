import pytest

from opensci_lib.hotfix.rules import parallel_plan, parallel_styles
from tests.hotfix.specification import check_noop, check_transformed, rewritten

RULE = "parallel-styles"
MODEL = parallel_plan.RULE.others["modeling"]
BEFORE, AFTER = parallel_styles.RULE.before, parallel_styles.RULE.after
TP, PP = (
    '    _tp_plan = {"lm_head": "colwise_rep"}\n',
    '    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}\n',
)
LATER = '"colwise_rep" if "colwise_rep" in ALL_PARALLEL_STYLES else "colwise_gather_output"'


def test_a_tied_head_without_a_plan_gets_both():
    tied = '    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}\n'
    after = AFTER.replace(
        f'    _tp_plan = {{"lm_head": {LATER}}}\n', f'{tied}    _tp_plan = {{"lm_head": {LATER}}}\n'
    )
    check_transformed(RULE, BEFORE.replace(TP, tied), after)


def test_what_a_head_says_of_pipelines_stays():
    own = '    _pp_plan = {"lm_head": (["x"], ["y"])}\n'
    check_transformed(RULE, BEFORE.replace(TP, TP + own), AFTER.replace(PP, own))


def test_a_model_without_norms_of_heads_needs_only_the_head_s_style():
    bare = BEFORE.replace("        self.q_norm = Norm(config.head_dim)\n", "").replace("self.q_norm", "")
    after = rewritten(RULE, bare)
    assert "grad_allreduce" not in after
    assert LATER in after
    check_transformed(RULE, bare, after)


@pytest.mark.parametrize(
    "source",
    [
        AFTER,
        "from torch import nn\n\n" + TP.strip() + "\n",
        BEFORE.replace("        self.v_proj = nn.Linear(8, 8)\n", ""),  # no plan for the rest
        MODEL.replace("        self.q_norm = Norm(config.head_dim)\n", "").replace("self.q_norm", ""),  # no head
        MODEL.replace("        self.post_init()\n", ""),
    ],
)
def test_left_alone(source):
    check_noop(RULE, source)


@pytest.mark.parametrize(
    ("styles", "head", "norms"),
    [
        (("colwise_rep",), "colwise_rep", {}),
        (("colwise_rep", "colwise_gather_output"), "colwise_rep", {}),
        (("colwise_gather_output",), "colwise_gather_output", {}),
        (
            ("colwise_gather_output", "replicated_with_grad_allreduce"),
            "colwise_gather_output",
            {"layers.*.self_attn.q_norm": "replicated_with_grad_allreduce"},
        ),
    ],
)
def test_each_release_in_its_own_words(styles, head, norms):
    """The rewritten code runs, on stand-ins for the release."""

    class PreTrainedModel:
        def post_init(self):
            self._tp_plan = {}

    anything = type("Anything", (), {"__init__": lambda self, *_: None})
    nn = type("nn", (), {"Module": object, "Linear": anything, "Embedding": anything, "ModuleList": list})
    names = {"nn": nn, "PreTrainedModel": PreTrainedModel, "Norm": anything, "ALL_PARALLEL_STYLES": styles}
    below = AFTER[AFTER.index("class Attention") :]
    exec(below, names)
    config = type("Config", (), {"head_dim": 4})
    assert names["ForCausalLM"]._tp_plan == {"lm_head": head}
    assert names["Model"](config)._tp_plan == norms
