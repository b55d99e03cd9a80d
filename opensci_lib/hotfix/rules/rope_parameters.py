"""Tell each release about RoPE under its own name.

Until 4.57 a configuration holds `rope_theta` and `rope_scaling`. From 5.0 on both are one dictionary,
`rope_parameters`, also in the config.json that `save_pretrained` writes, so that a model saved under
5.x lost its RoPE type when it was loaded under 4.x. The old ways raise a FutureWarning on 5.x.
"""

from typing import Any

import libcst as cst
import libcst.matchers as m

from opensci_lib.hotfix.rule import Rule, Sources
from opensci_lib.hotfix.tree import Tree, UnrecognisedError, method, replace, statements

_VALIDATION = "transformers.modeling_rope_utils.rope_config_validation"
_ASSIGNMENT = m.SimpleStatementLine(
    body=[m.Assign(targets=[m.AssignTarget(target=m.Attribute(value=m.Name("self"), attr=m.Name("rope_scaling")))])]
)
_CALL = m.SimpleStatementLine(body=[m.Expr(value=m.Call())])
_FEATURE = 'hasattr(self, "standardize_rope_params")'


def rewrite(sources: Sources) -> cst.Module | None:
    """Set `rope_parameters` where the release has it, and validate in the release's own way."""
    tree = sources.configuration
    if tree is None:
        return None
    changes: dict = {}
    for owner in tree.classes.values():
        initializer = method(owner, "__init__")
        if initializer is None:
            continue
        for line in tree.find(_ASSIGNMENT, initializer):
            if not _is_guarded(tree, line):
                changes[line] = _set(tree, initializer, line)
    for use in tree.find(m.Name("rope_config_validation") | m.Attribute(attr=m.Name("rope_config_validation"))):
        if _VALIDATION not in tree.names(use):
            continue
        parents = list(tree.parents(use))
        if any(isinstance(parent, cst.Import | cst.ImportFrom) for parent in parents):
            continue
        if isinstance(parents[0], cst.Attribute) or _is_guarded(tree, use):
            continue
        line = tree.enclosing(use, cst.SimpleStatementLine)
        if line is None or not m.matches(line, _CALL) or "self" not in tree.code(line):
            raise UnrecognisedError(use, "rope_config_validation is used otherwise than as a call on self")
        [choice] = statements(f"if {_FEATURE}:\n    self.standardize_rope_params()\nelse:\n    pass\n", tree.module)
        changes[line] = _with_else(choice, line)
    return replace(tree.module, changes) if changes else None


def _set(tree: Tree, initializer: cst.FunctionDef, line: Any) -> list:
    value = tree.code(line.body[0].value)
    added = []
    keywords = initializer.params.star_kwarg
    if keywords is not None and value in {parameter.name.value for parameter in initializer.params.params}:
        added = statements(
            f"if {value} is None:\n"
            f'    {value} = {keywords.name.value}.pop("rope_parameters", None)  # its name in transformers 5\n',
            tree.module,
        )
    [choice] = statements(f"if {_FEATURE}:\n    self.rope_parameters = {value}\nelse:\n    pass\n", tree.module)
    result = [*added, _with_else(choice, line)]
    result[0] = result[0].with_changes(leading_lines=line.leading_lines)
    if added:
        result[1] = result[1].with_changes(leading_lines=[])
    return result


def _with_else(choice: Any, line: Any) -> Any:
    """Put a statement into the empty `else` of another, which takes its place."""
    body = choice.orelse.body.with_changes(body=[line.with_changes(leading_lines=[])])
    return choice.with_changes(orelse=choice.orelse.with_changes(body=body), leading_lines=line.leading_lines)


def _is_guarded(tree: Tree, node: cst.CSTNode) -> bool:
    return any(isinstance(parent, cst.If) and _FEATURE in tree.code(parent.test) for parent in tree.parents(node))


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
    trf=(),
    rewrite=rewrite,
)
