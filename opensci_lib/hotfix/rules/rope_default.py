"""Give the rotary embedding its own "default" parameters, which transformers 5 no longer offers.

`ROPE_INIT_FUNCTIONS["default"]` exists until 4.57. From 5.0 on a rotary module is expected to carry
`compute_default_rope_parameters`; it computes what 4.48 computed, to the last bit.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import UnrecognisedError, method

_TABLE = "transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS"
_NAME = "compute_default_rope_parameters"
_METHOD = '''
@staticmethod
def compute_default_rope_parameters(config, device=None, seq_len=None):
    """Return (inv_freq, scaling) of the plain rotary embedding, which transformers 5 leaves to the model."""
    base = (getattr(config, "rope_parameters", None) or {{}}).get("rope_theta") or config.rope_theta
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dim = int(head_dim * getattr(config, "partial_rotary_factor", 1.0))
    return 1.0 / (base ** ({torch}.arange(0, dim, 2, dtype={torch}.int64).float().to(device) / dim)), 1.0
'''


def edits(sources: Sources) -> Edits:
    """Add the class's own "default" to the table where the class looks a function up in it."""
    source, given = sources.modeling, set()
    for node in source.find(ast.Name, ast.Attribute):
        if _TABLE not in source.names(node):
            continue
        owner = source.enclosing(node, ast.ClassDef)
        if owner is None:
            raise UnrecognisedError(node, "ROPE_INIT_FUNCTIONS is used outside a class")
        if method(owner, _NAME):
            continue
        lookup = next(source.parents(node))
        if not isinstance(lookup, ast.Subscript) or lookup.value is not node:
            raise UnrecognisedError(node, "ROPE_INIT_FUNCTIONS is used other than as ROPE_INIT_FUNCTIONS[…]")
        initializer = method(owner, "__init__")
        if initializer is None or initializer not in source.parents(node):
            raise UnrecognisedError(node, "ROPE_INIT_FUNCTIONS[…] is looked up outside __init__")
        if (torch := source.name_of("torch")) is None:
            raise UnrecognisedError(node, "the file does not import torch")
        yield source.replaced(node, f'{{**{source.code(node)}, "default": self.{_NAME}}}')
        if owner not in given:
            given.add(owner)
            yield source.after(initializer, _METHOD.format(torch=torch))


RULE = Rule(
    id="rope-default",
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
        '        self.rope_init_fn = {**ROPE_INIT_FUNCTIONS, "default": self.compute_default_rope_parameters}'
        "[self.rope_type]\n"
        + "".join(f"    {line}".rstrip() + "\n" for line in _METHOD.format(torch="torch").splitlines())
    ),
    signs=("KeyError: 'default'",),
    edits=edits,
)
