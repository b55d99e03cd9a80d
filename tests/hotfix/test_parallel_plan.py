import json

import pytest

from opensci_lib.hotfix.rewriting import choose, rewrite
from opensci_lib.hotfix.rules import parallel_plan
from tests.hotfix.specification import check_noop, check_transformed, rewritten

RULE = "parallel-plan"
CONFIG = json.dumps({"auto_map": {"AutoConfig": "configuration_x.Config"}})
MODELING = parallel_plan.RULE.others["modeling"]
BEFORE = "class Config(PretrainedConfig):\n    def __init__(self): ...\n"


def plans(modeling: str, configuration: str = BEFORE) -> dict:
    """What the configuration's class declares once it is rewritten."""
    names = {"PretrainedConfig": object}
    exec(rewritten(RULE, configuration, modeling=modeling, config=CONFIG), names)
    return {name: value for name, value in vars(names["Config"]).items() if name.startswith("base_model")}


def test_a_class_without_settings_declares_them_first():
    after = rewritten(RULE, BEFORE, modeling=MODELING, config=CONFIG)
    assert after.index("base_model_tp_plan") < after.index("base_model_pp_plan") < after.index("def __init__")
    check_transformed(RULE, BEFORE, after, modeling=MODELING, config=CONFIG)


def test_the_miniature(miniature):
    found = plans((miniature / "modeling_opensci.py").read_text())
    attention = {f"layers.*.self_attn.{name}_proj": "colwise" for name in "qkv"}
    gated = {"layers.*.mlp.gate_proj": "colwise", "layers.*.mlp.up_proj": "colwise"}
    rows = {"layers.*.self_attn.o_proj": "rowwise", "layers.*.mlp.down_proj": "rowwise"}
    assert found["base_model_tp_plan"] == attention | gated | rows
    assert list(found["base_model_pp_plan"]) == ["embed_tokens", "layers", "norm"]


def test_names_do_not_matter_but_what_the_modules_do():
    names = {"q_proj": "wq", "o_proj": "wo", "down_proj": "w2", "self_attn": "attention", "self.layers": "self.h"}
    renamed = MODELING
    for name, other in {**names, "embed_tokens": "wte", "self.norm": "self.ln_f"}.items():
        renamed = renamed.replace(name, other)
    found = plans(renamed)
    assert found["base_model_tp_plan"]["h.*.attention.wq"] == "colwise"
    assert found["base_model_tp_plan"]["h.*.attention.wo"] == "rowwise"
    assert found["base_model_tp_plan"]["h.*.mlp.w2"] == "rowwise"
    assert list(found["base_model_pp_plan"]) == ["wte", "h", "ln_f"]


FUSED = MODELING.replace("        self.k_proj = nn.Linear(8, 8)\n", "").replace("self.k_proj(x)", "q")


@pytest.mark.parametrize(
    "modeling",
    [
        "",
        FUSED,
        MODELING.replace("(*x.shape[:-1], -1, self.head_dim)", "(*x.shape[:-1], self.num_heads, self.head_dim)"),
        MODELING.replace("(*x.shape[:-1], -1, self.head_dim)", "(1, 2, self.config.num_key_value_heads, 4)"),
        MODELING.replace("Norm(config.head_dim)", "Norm(config.hidden_size)"),  # of all heads at once
        MODELING.replace("self.mlp = MLP(config)", "self.mlp = MLP(config) if config.dense else Experts(config)"),
        MODELING.replace("self.mlp = MLP(config)", "self.mlp = nn.ModuleList([MLP(config) for _ in range(8)])"),
        MODELING.replace("self.mlp = MLP(config)", "self.mlp = MLP(config)\n        self.cross = Attention(config)"),
        MODELING.replace("return self.down_proj", "x = x * 2\n        return self.down_proj"),
        MODELING.replace("return self.o_proj(attended)", "return attended @ self.o_proj.weight"),
        MODELING.replace("self.norm = Norm(8)", "self.more = nn.ModuleList([])"),
        MODELING.replace("nn.Linear(8, 16)", "Packed(8, 16)"),
    ],
)
def test_other_projections_get_none(modeling):
    assert modeling != MODELING
    check_noop(RULE, BEFORE, modeling=modeling, config=CONFIG)


@pytest.mark.parametrize(
    ("configuration", "config"),
    [
        ("class Config(PretrainedConfig):\n    base_model_tp_plan = {}\n", CONFIG),
        ("class Other(PretrainedConfig):\n    x = 1\n", CONFIG),
        (BEFORE, "{}"),
        (BEFORE, '{"auto_map": {"AutoConfig": null}}'),
    ],
)
def test_left_alone(configuration, config):
    check_noop(RULE, configuration, modeling=MODELING, config=config)


def test_few_lines_are_added(miniature):
    """Maintainers read them."""
    diff = rewrite(miniature, choose([RULE, "parallel-styles"])).diff.splitlines()
    added = [line for line in diff if line.startswith("+") and line[1:].strip(" +#") and "hotfix" not in line]
    assert len([line for line in added if not line.startswith("+++")]) == 24
    assert len([line for line in diff if line.startswith("-") and not line.startswith("---")]) == 1
