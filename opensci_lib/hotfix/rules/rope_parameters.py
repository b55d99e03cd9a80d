"""Tell each release about RoPE under its own name.

Until 4.57 a configuration holds `rope_theta` and `rope_scaling`. From 5.0 on both are one dictionary,
`rope_parameters`, also in the config.json that `save_pretrained` writes, so that a model saved under
5.x lost its RoPE type when it was loaded under 4.x. The old ways raise a FutureWarning on 5.x.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import Function, Source, UnrecognisedError, arguments, dotted, method

_VALIDATION = "transformers.modeling_rope_utils.rope_config_validation"
_FEATURE = 'hasattr(self, "standardize_rope_params")'


def edits(sources: Sources) -> Edits:
    """Set `rope_parameters` where the release has it, and validate in the release's own way."""
    source = sources.configuration
    if source is None:
        return
    for owner in source.classes.values():
        initializer = method(owner, "__init__")
        if initializer is None:
            continue
        for line in source.find(ast.Assign, within=initializer):
            if [dotted(target) for target in line.targets] == ["self.rope_scaling"] and not _is_guarded(source, line):
                yield from source.deeper(line, _set(initializer, source.code(line.value)))
    for use in source.find(ast.Name, ast.Attribute):
        if _VALIDATION not in source.names(use) or _is_guarded(source, use):
            continue
        line = source.enclosing(use, ast.stmt)
        call = line.value if isinstance(line, ast.Expr) else None
        if line is None or not isinstance(call, ast.Call) or "self" not in map(dotted, call.args):
            raise UnrecognisedError(use, "rope_config_validation is used otherwise than as a call on self")
        yield from source.deeper(line, f"if {_FEATURE}:\n    self.standardize_rope_params()\nelse:\n")


def _set(initializer: Function, value: str) -> str:
    """Return the lines above `self.rope_scaling = value`, which goes into the last block."""
    lines = f"if {_FEATURE}:\n    self.rope_parameters = {value}\nelse:\n"
    if initializer.args.kwarg is None or value not in arguments(initializer):
        return lines
    return (
        f"if {value} is None:\n"
        f'    {value} = {initializer.args.kwarg.arg}.pop("rope_parameters", None)  # its name in transformers 5\n'
        f"{lines}"
    )


def _is_guarded(source: Source, node: ast.AST) -> bool:
    return any(isinstance(parent, ast.If) and _FEATURE in source.code(parent.test) for parent in source.parents(node))


RULE = Rule(
    id="rope-parameters",
    target="configuration",
    releases="5.0 and later",
    cause=(
        "5.0 merged rope_theta and rope_scaling into rope_parameters: the old names raise a FutureWarning, and a "
        "model saved under 5.x loses its RoPE type under 4.x."
    ),
    before=(
        "from transformers.modeling_rope_utils import rope_config_validation\n"
        "\n"
        "class Config(PretrainedConfig):\n"
        "    def __init__(self, rope_theta=10000.0, rope_scaling=None, **kwargs):\n"
        "        self.rope_theta = rope_theta\n"
        "        self.rope_scaling = rope_scaling\n"
        "        rope_config_validation(self)\n"
    ),
    after=(
        "from transformers.modeling_rope_utils import rope_config_validation\n"
        "\n"
        "class Config(PretrainedConfig):\n"
        "    def __init__(self, rope_theta=10000.0, rope_scaling=None, **kwargs):\n"
        "        self.rope_theta = rope_theta\n"
        "        if rope_scaling is None:\n"
        '            rope_scaling = kwargs.pop("rope_parameters", None)  # its name in transformers 5\n'
        '        if hasattr(self, "standardize_rope_params"):\n'
        "            self.rope_parameters = rope_scaling\n"
        "        else:\n"
        "            self.rope_scaling = rope_scaling\n"
        '        if hasattr(self, "standardize_rope_params"):\n'
        "            self.standardize_rope_params()\n"
        "        else:\n"
        "            rope_config_validation(self)\n"
    ),
    edits=edits,
)
