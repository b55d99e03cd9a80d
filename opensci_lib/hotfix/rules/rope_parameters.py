"""Tell each release about RoPE under its own name.

Until 4.57 a configuration holds `rope_theta` and `rope_scaling`. From 5.0 on both are one dictionary,
`rope_parameters`, also in the config.json that `save_pretrained` writes, so that a model saved under
5.x lost its RoPE type when it was loaded under 4.x. The old ways raise a FutureWarning on 5.x, and what
is set by the name `rope_theta` is not read. So on 5.x what is set by the old names is written where the release
reads: each may be set alone, before the model is built, as on 4.48. The library's own `rope_scaling` reads there.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import Function, Source, UnrecognisedError, arguments, dotted, method

_VALIDATION = "transformers.modeling_rope_utils.rope_config_validation"
_FEATURE = "standardize_rope_params"
_PARAMETERS = """\
rope_parameters = dict({kwargs}.pop("rope_parameters", None) or {{}})  # what transformers 5 saves in place of both
saved_theta = rope_parameters.pop("rope_theta", {default})
{theta} = saved_theta if {theta} is None else {theta}
{scaling} = {scaling} or rope_parameters or None
"""
_ACCESS = """
if hasattr(BASE, "standardize_rope_params"):
    # transformers 5 reads both from one dictionary, rope_parameters
    rope_theta = property(lambda self: self.rope_parameters["rope_theta"])

    def __setattr__(self, name, value):
        parameters = self.__dict__.get("rope_parameters") or {}
        if name == "rope_theta":
            self.rope_parameters = {**parameters, "rope_theta": value}
        elif name == "rope_scaling":
            self.rope_parameters = {"rope_theta": self.rope_theta, **(value or {"rope_type": "default"})}
            self.standardize_rope_params()
        else:
            if name == "max_position_embeddings" and parameters.get("rope_type") in ("yarn", "longrope"):
                if parameters.get("original_max_position_embeddings") == self.max_position_embeddings:
                    parameters["original_max_position_embeddings"] = value  # it was taken from here
            super().__setattr__(name, value)
"""


def edits(sources: Sources) -> Edits:
    """Write the old names through to `rope_parameters` where the release has it, and validate in its own way."""
    source = sources.configuration
    if source is None:
        return
    for owner in source.classes.values():
        initializer = method(owner, "__init__")
        if initializer is None or not owner.bases or _FEATURE in source.code(owner):
            continue
        set_here = {
            dotted(target): line for line in source.find(ast.Assign, within=initializer) for target in line.targets
        }
        if "self.rope_scaling" not in set_here:
            continue
        if "self.rope_theta" not in set_here:
            raise UnrecognisedError(set_here["self.rope_scaling"], "rope_scaling is set without rope_theta")
        yield from _taken(source, initializer, set_here["self.rope_theta"], set_here["self.rope_scaling"])
        yield source.last_in(owner, _ACCESS.replace("BASE", source.code(owner.bases[0])).strip())
    for use in source.find(ast.Name, ast.Attribute):
        if _VALIDATION not in source.names(use) or _is_guarded(source, use):
            continue
        line = source.enclosing(use, ast.stmt)
        call = line.value if isinstance(line, ast.Expr) else None
        if line is None or not isinstance(call, ast.Call) or "self" not in map(dotted, call.args):
            raise UnrecognisedError(use, "rope_config_validation is used otherwise than as a call on self")
        yield from source.deeper(line, f'if not hasattr(self, "{_FEATURE}"):\n')
    for line in source.find(ast.Expr):
        if _is_own_validation(source, line) and not _is_guarded(source, line):
            yield from source.deeper(line, f'if not hasattr(self, "{_FEATURE}"):\n')


def _is_own_validation(source: Source, line: ast.Expr) -> bool:
    """Say whether a line calls a method of the configuration that looks at rope_scaling, raises, and sets nothing."""
    owner, called = source.enclosing(line, ast.ClassDef), dotted(getattr(line.value, "func", line))
    if owner is None or not called.startswith("self.") or getattr(line.value, "args", None):
        return False
    check = method(owner, called.removeprefix("self."))
    if check is None or "self.rope_scaling" not in map(dotted, source.find(ast.Attribute, within=check)):
        return False
    places = source.find(ast.Attribute, ast.Subscript, within=check)
    return bool(source.find(ast.Raise, within=check)) and all(isinstance(place.ctx, ast.Load) for place in places)


def _taken(source: Source, initializer: Function, theta: ast.Assign, scaling: ast.Assign) -> Edits:
    """Take both from `rope_parameters` too, where they are arguments: what has a name of its own goes first."""
    names = [source.code(line.value) for line in (theta, scaling)]
    if initializer.args.kwarg is None or not set(names) <= arguments(initializer).keys():
        return
    default = source.default(initializer, names[0])
    if default is None:
        raise UnrecognisedError(theta, "rope_theta has no default")
    yield source.replaced(default, "None")
    lines = _PARAMETERS.format(
        kwargs=initializer.args.kwarg.arg, theta=names[0], scaling=names[1], default=source.code(default)
    )
    yield source.before(min(theta, scaling, key=source.start), lines)


def _is_guarded(source: Source, node: ast.AST) -> bool:
    return any(isinstance(parent, ast.If) and _FEATURE in source.code(parent.test) for parent in source.parents(node))


def _lines(text: str, indent: int) -> str:
    return "".join(f"{' ' * indent}{line}".rstrip() + "\n" for line in text.splitlines())


RULE = Rule(
    id="rope-parameters",
    target="configuration",
    releases="5.0 and later",
    cause=(
        "5.0 merged rope_theta and rope_scaling into rope_parameters: the old names raise a FutureWarning, a theta "
        "that is set by its old name is not read, and a model saved under 5.x loses its RoPE type under 4.x."
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
        "    def __init__(self, rope_theta=None, rope_scaling=None, **kwargs):\n"
        + _lines(
            _PARAMETERS.format(kwargs="kwargs", theta="rope_theta", scaling="rope_scaling", default="10000.0"), 8
        )
        + "        self.rope_theta = rope_theta\n"
        "        self.rope_scaling = rope_scaling\n"
        f'        if not hasattr(self, "{_FEATURE}"):\n'
        "            rope_config_validation(self)\n" + _lines(_ACCESS.replace("BASE", "PretrainedConfig"), 4)
    ),
    edits=edits,
)
