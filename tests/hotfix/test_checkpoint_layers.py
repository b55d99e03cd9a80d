import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised

RULE = "checkpoint-layers"
BEFORE = """\
class Layer(nn.Module):
    def forward(self, x): ...

class Model(nn.Module):
    def __init__(self, config):
        self.layers = nn.ModuleList([Layer() for _ in range(config.layers)])

    def forward(self, x):
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                x = self._gradient_checkpointing_func(layer.__call__, x)
            else:
                x = layer(x)
"""
AFTER = """\
class Layer(GradientCheckpointingLayer):
    def forward(self, x): ...

class Model(nn.Module):
    def __init__(self, config):
        self.layers = nn.ModuleList([Layer() for _ in range(config.layers)])

    def forward(self, x):
        for layer in self.layers:
            if self.gradient_checkpointing and self.training and not hasattr(layer, "gradient_checkpointing"):
                x = self._gradient_checkpointing_func(layer.__call__, x)
            else:
                x = layer(x)
"""
IMPORT = """
try:
    from transformers.modeling_layers import GradientCheckpointingLayer
except ImportError:  # until transformers 4.51 the model checkpoints its layers itself
    GradientCheckpointingLayer = {module}
"""


@pytest.mark.parametrize(
    ("imports", "module"),
    [
        ("from torch import nn\nimport math\n", "nn.Module"),
        ("import torch.nn as nn\n", "nn.Module"),
        ("import torch\n", "torch.nn.Module"),
    ],
)
def test_after_the_last_import_and_by_the_file_s_own_name(imports, module):
    before, after = (source.replace("nn.", module.removesuffix("Module")) for source in (BEFORE, AFTER))
    check_transformed(RULE, imports + before, imports + IMPORT.format(module=module) + after)


def test_the_condition_the_other_way_round():
    turned = [
        source.replace(
            "self.gradient_checkpointing and self.training", "self.training and self.gradient_checkpointing"
        )
        for source in (BEFORE, AFTER)
    ]
    imports = "from torch import nn\n"
    check_transformed(RULE, imports + turned[0], imports + IMPORT.format(module="nn.Module") + turned[1])


def with_cache(source: str, name: str) -> str:
    """Let the layer take a cache, which its documentation and its body name."""
    doc = f'        """Compute with `{name}`, of past_key_values."""'
    forward = f"def forward(self, x, {name}=None):\n{doc}\n        return self.inner(x, past_key_value={name})\n"
    source = source.replace("def forward(self, x): ...\n", forward)
    return source.replace("x = layer(x)", f"x = layer(x, {name}=cache)")


def test_a_cache_goes_by_its_later_name():
    imports = "from torch import nn\n"
    before, after = with_cache(BEFORE, "past_key_value"), with_cache(AFTER, "past_key_values")
    check_transformed(RULE, imports + before, imports + IMPORT.format(module="nn.Module") + after)


def test_a_layer_that_takes_both_names_is_refused():
    source = "from torch import nn\n" + with_cache(BEFORE, "past_key_value")
    check_unrecognised(RULE, source.replace("=None):", "=None, past_key_values=None):"), 3)


@pytest.mark.parametrize(
    "source",
    [
        BEFORE.replace("self._gradient_checkpointing_func(layer.__call__, x)", "layer(x)"),
        BEFORE.replace("self.training:", 'self.training and not hasattr(layer, "gradient_checkpointing"):'),
    ],
)
def test_left_alone(source):
    check_noop(RULE, "from torch import nn\n" + source)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (" and self.training", ""),
        ("layer.__call__, x", "lambda x: layer(x), x"),
        ("                x = layer(x)\n", "                x = layer(x=x)\n"),
        ("                x = layer(x)\n", "                x = layer(*x)\n"),
        ("                x = layer(x)\n", "                pass\n"),
        ("class Layer(nn.Module)", "class Layer(Other)"),
        ("nn.ModuleList([Layer() for _ in range(config.layers)])", "make(config)"),
    ],
)
def test_named_with_its_line(earlier, later):
    source = "from torch import nn\n" + BEFORE.replace(earlier, later)
    assert source.count("\n") == 14
    check_unrecognised(RULE, source, 12)
