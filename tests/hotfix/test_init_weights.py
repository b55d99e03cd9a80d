import pytest

from tests.hotfix.specification import check_noop, check_transformed, check_unrecognised

RULE = "init-weights"


def model(*lines: str, imports: str = "from torch import nn\n") -> str:
    body = "".join(f"        {line}\n" for line in lines)
    return f"{imports}class Base(PreTrainedModel):\n    def _init_weights(self, module):\n{body}"


def check_line(before: str, after: str, imports: str = "from torch import nn\n") -> None:
    check_transformed(RULE, model(before, imports=imports), model(after, imports=imports))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("module.weight.data.normal_(mean=0.0, std=1.0)", "nn.init.normal_(module.weight, mean=0.0, std=1.0)"),
        ("module.weight.data.normal_(0.0, std)", "nn.init.normal_(module.weight, 0.0, std)"),
        ("module.bias.data.zero_()", "nn.init.zeros_(module.bias)"),
        ("module.weight.data.fill_(1.0)", "nn.init.constant_(module.weight, 1.0)"),
        ("module.weight.normal_()", "nn.init.normal_(module.weight)"),
        ("module.weight.data.uniform_(-1.0, 1.0)", "nn.init.uniform_(module.weight, -1.0, 1.0)"),
        ("nn.init.normal_(module.weight.data)", "nn.init.normal_(module.weight)"),
    ],
)
def test_writes_become_initialisers(before, after):
    check_line(before, after)


@pytest.mark.parametrize(
    ("imports", "init"),
    [
        ("import torch\n", "torch.nn.init"),
        ("import torch as th\n", "th.nn.init"),
        ("import torch.utils.checkpoint\n", "torch.nn.init"),
        ("import torch.nn as layers\n", "layers.init"),
    ],
)
def test_written_as_the_file_imports_torch(imports, init):
    check_line("module.bias.data.zero_()", f"{init}.zeros_(module.bias)", imports=imports)


def test_a_slice_is_guarded_because_it_loses_the_mark():
    check_transformed(
        RULE,
        model("# padding", "module.weight.data[module.padding_idx].zero_()"),
        model(
            "# padding",
            'if not getattr(module.weight, "_is_hf_initialized", False):  # a slice does not carry the mark itself',
            "    nn.init.zeros_(module.weight[module.padding_idx])",
        ),
    )


@pytest.mark.parametrize(
    "source",
    [
        model("super()._init_weights(module)", "nn.init.normal_(module.weight)"),
        "class Base:\n    def forward(self, x):\n        x.data.zero_()\n",
        "from torch import nn\nnn.Linear(1, 1).weight.data.zero_()\n",
    ],
)
def test_left_alone(source):
    check_noop(RULE, source)


@pytest.mark.parametrize(
    "write",
    [
        "module.weight.data.mul_(2.0)",
        "module.weight.data = torch.zeros(1)",
        "module.weight.data[0] = 0.0",
        "return module.weight.data[0].zero_()",
    ],
)
def test_named_with_its_line(write):
    check_unrecognised(RULE, model("pass", write), 5)


def test_without_torch_there_is_nothing_to_call():
    check_unrecognised(RULE, model("module.bias.data.zero_()", imports=""), 3)
