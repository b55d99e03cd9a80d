"""Give the rotary embedding its own "default" parameters, which transformers 5 no longer offers.

`ROPE_INIT_FUNCTIONS["default"]` exists until 4.57. From 5.0 on a rotary module is expected to carry
`compute_default_rope_parameters`; it computes what 4.48 computed, to the last bit.
"""

from typing import Any

import libcst as cst
import libcst.matchers as m

from opensci_lib.hotfix.rule import Rule, Sources
from opensci_lib.hotfix.tree import UnrecognisedError, method, replace, statements

_TABLE = "transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS"
_NAME = "compute_default_rope_parameters"
_METHOD = '''
@staticmethod
def compute_default_rope_parameters(config, device=None, seq_len=None):
    """Return (inv_freq, attention scaling) of the plain rotary embedding."""
    # transformers 5 keeps rope_theta in config.rope_parameters
    parameters = getattr(config, "rope_parameters", None) or {{}}
    base = parameters.get("rope_theta") or config.rope_theta
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dim = int(head_dim * getattr(config, "partial_rotary_factor", 1.0))
    exponents = {torch}.arange(0, dim, 2, dtype={torch}.int64).float().to(device) / dim
    return 1.0 / (base**exponents), 1.0
'''


def rewrite(sources: Sources) -> cst.Module | None:
    """Look up the table for any type but "default", for which the class gets a method of its own."""
    tree = sources.modeling
    changes: dict = {}
    for node in tree.find(m.Name() | m.Attribute()):
        if _TABLE not in tree.names(node):
            continue
        parents = list(tree.parents(node))
        if any(isinstance(parent, cst.ImportFrom | cst.Import) for parent in parents):
            continue
        if isinstance(parents[0], cst.Attribute) and parents[0].attr is node:
            continue  # the attribute itself stands for it
        owner = tree.enclosing(node, cst.ClassDef)
        if not isinstance(owner, cst.ClassDef):
            raise UnrecognisedError(node, "ROPE_INIT_FUNCTIONS is used outside a class")
        if method(owner, _NAME):
            continue
        lookup = parents[0]
        if not m.matches(lookup, m.Subscript(value=m.Name() | m.Attribute(), slice=[m.SubscriptElement()])):
            raise UnrecognisedError(node, "ROPE_INIT_FUNCTIONS is used other than as ROPE_INIT_FUNCTIONS[…]")
        line = tree.enclosing(lookup, cst.SimpleStatementLine)
        assignment = m.SimpleStatementLine(body=[m.Assign(targets=[m.AssignTarget()], value=m.Subscript())])
        if line is None or not m.matches(line, assignment):
            raise UnrecognisedError(node, "the value of ROPE_INIT_FUNCTIONS[…] is not assigned")
        made: Any = line.body[0]
        if made.value is not lookup:
            raise UnrecognisedError(node, "ROPE_INIT_FUNCTIONS[…] is part of a larger expression")
        initializer = method(owner, "__init__")
        if initializer is None or initializer not in parents:
            raise UnrecognisedError(node, "ROPE_INIT_FUNCTIONS[…] is looked up outside __init__")
        target, key = tree.code(made.targets[0].target), tree.code(lookup.slice[0])
        [choice] = statements(f'if {key} == "default":\n    {target} = self.{_NAME}\nelse:\n    pass\n', tree.module)
        otherwise = choice.orelse.with_changes(
            body=choice.orelse.body.with_changes(body=[line.with_changes(leading_lines=[])])
        )
        changes[line] = choice.with_changes(orelse=otherwise, leading_lines=line.leading_lines)
        if (torch := tree.name_of("torch")) is None:
            raise UnrecognisedError(node, "the file does not import torch")
        [added] = statements(_METHOD.lstrip("\n").format(torch=torch), tree.module)
        added = added.with_changes(leading_lines=[cst.EmptyLine(indent=False)])
        changes[initializer] = lambda updated, added=added: [updated, added]
    return replace(tree.module, changes) if changes else None


RULE = Rule(
    id="rope-default",
    target="modeling",
    releases="5.0 and later",
    cause='ROPE_INIT_FUNCTIONS lost its entry "default" in 5.0, so building the model raises a KeyError.',
    before=(
        "import torch\n"
        "from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS\n"
        "\n"
        "class RotaryEmbedding(nn.Module):\n"
        "    def __init__(self, config, device=None):\n"
        "        self.rope_init_fn = ROPE_INIT_FUNCTIONS[self.rope_type]\n"
    ),
    after=(
        "import torch\n"
        "from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS\n"
        "\n"
        "class RotaryEmbedding(nn.Module):\n"
        "    def __init__(self, config, device=None):\n"
        '        if self.rope_type == "default":\n'
        "            self.rope_init_fn = self.compute_default_rope_parameters\n"
        "        else:\n"
        "            self.rope_init_fn = ROPE_INIT_FUNCTIONS[self.rope_type]\n"
        + "".join(f"    {line}".rstrip() + "\n" for line in _METHOD.format(torch="torch").splitlines())
    ),
    trf=(),
    signs=("KeyError: 'default'",),
    rewrite=rewrite,
)
