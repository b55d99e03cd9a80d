"""Let the release build the causal mask where it can.

`transformers.masking_utils.create_causal_mask` exists from 4.53 on. Before, a model built its mask
itself, and `generate` called its `_prepare_4d_causal_attention_mask_with_cache_position` for static
caches: until 5.2, if the model has one, but with a signature that changed on the way.
"""

from typing import Any

import libcst as cst
import libcst.matchers as m

from opensci_lib.hotfix.rule import Rule, Sources
from opensci_lib.hotfix.tree import Tree, UnrecognisedError, after_docstring, method, replace, statements

_CALLED_BY_GENERATE = "_prepare_4d_causal_attention_mask_with_cache_position"
_BUILDER = "_update_causal_mask"
_IMPORT = """\
try:
    from transformers.masking_utils import create_causal_mask
except ImportError:  # until transformers 4.52 a model builds its mask itself
    create_causal_mask = None
"""
_CALL = """\
if create_causal_mask is not None:
    config, implementation = self.config, self.config._attn_implementation
    if output_attentions and implementation == "sdpa":
        # The layers fall back on eager attention, which adds the mask to the scores.
        config = copy.copy(config)
        config._attn_implementation = "eager"
        if attention_mask is not None and attention_mask.dtype == {torch}.bool and attention_mask.dim() == 4:
            # generate() made it for the static cache
            lowest = {torch}.finfo({embeds}.dtype).min
            attention_mask = {torch}.zeros_like(attention_mask, dtype={embeds}.dtype).masked_fill(
                ~attention_mask, lowest
            )
    # Between releases one of these changed its name and another went.
    inputs = {{"input_embeds": {embeds}, "inputs_embeds": {embeds}, "cache_position": cache_position}}
    inputs["position_ids"] = position_ids  # where they start again, another sequence does
    known = inspect.signature(create_causal_mask).parameters
    return create_causal_mask(
        config=config,
        attention_mask=attention_mask,
        past_key_values=past_key_values,
        **{{name: value for name, value in inputs.items() if name in known}},
    )
"""
_REMOVAL = """\
if create_causal_mask is not None:
    # Where it is missing, generate() builds the mask for a static cache in the release's own way.
    del {owner}.{method}
"""
_EQUAL = cst.AssignEqual(cst.SimpleWhitespace(""), cst.SimpleWhitespace(""))
_TOP_LEVEL_IMPORT = m.SimpleStatementLine(body=[m.Import() | m.ImportFrom()])


def rewrite(sources: Sources) -> cst.Module | None:
    """Call `create_causal_mask` first in `_update_causal_mask`; hide from `generate` what it would misuse."""
    tree = sources.modeling
    changes: dict = {}
    for name, owner in tree.classes.items():
        called, builder = method(owner, _CALLED_BY_GENERATE), method(owner, _BUILDER)
        if builder is not None and not tree.find(m.Name("create_causal_mask"), builder):
            changes[builder.body] = _with_call(tree, builder)
            changes |= _with_position_ids(tree, owner, builder)
            if called is not None:
                changes[owner] = _with_removal(tree, name)
        elif called is not None and builder is None:
            raise UnrecognisedError(called, f"{name} builds its mask elsewhere than in {_BUILDER}")
    if not changes:
        return None
    imports = [line for line in tree.module.body if m.matches(line, _TOP_LEVEL_IMPORT)]
    if not imports:
        raise UnrecognisedError(tree.module.body[0], "the file imports nothing at its top level")
    changes[imports[0]] = lambda line: _with_modules(tree, line)
    if len(imports) == 1:
        changes[imports[0]] = lambda line: [*_with_modules(tree, line), *statements(_IMPORT, tree.module)]
    else:
        changes[imports[-1]] = lambda line: [line, *statements(_IMPORT, tree.module)]
    return replace(tree.module, changes)


def _with_call(tree: Tree, builder: cst.FunctionDef) -> Any:
    parameters = [parameter.name.value for parameter in builder.params.params]
    embeds = next((name for name in ("input_tensor", "inputs_embeds", "input_embeds") if name in parameters), None)
    needed = {"self", "attention_mask", "cache_position", "past_key_values", "output_attentions"}
    if embeds is None or not needed.issubset(parameters):
        raise UnrecognisedError(builder, f"{_BUILDER} takes other arguments than in transformers 4.48")
    if (torch := tree.name_of("torch")) is None:
        raise UnrecognisedError(builder, "the file does not import torch")
    call = statements(_CALL.format(embeds=embeds, torch=torch), tree.module)
    return lambda body: body.with_changes(body=after_docstring(body, call))


def _with_position_ids(tree: Tree, owner: cst.ClassDef, builder: cst.FunctionDef) -> dict:
    """Hand the builder `position_ids`, by which later releases keep sequences apart that share a row."""
    changes: dict = {}
    if all(parameter.name.value != "position_ids" for parameter in builder.params.params):
        changes[builder.params] = _with_parameter
    to_builder = m.Call(func=m.Attribute(value=m.Name("self"), attr=m.Name(_BUILDER)))
    for call in tree.find(to_builder, owner):
        caller = tree.enclosing(call, cst.FunctionDef)
        known = [] if caller is None else [parameter.name.value for parameter in caller.params.params]
        given = [argument.keyword.value for argument in call.args if argument.keyword]
        if "position_ids" in known and "position_ids" not in given:
            changes[call] = _with_argument
    return changes


def _with_parameter(parameters: cst.Parameters) -> cst.Parameters:
    *others, last = parameters.params
    added = last.with_changes(name=cst.Name("position_ids"), annotation=None, default=cst.Name("None"), equal=_EQUAL)
    last = last.with_changes(comma=parameters.params[0].comma, whitespace_after_param=cst.SimpleWhitespace(""))
    return parameters.with_changes(params=[*others, last, added])


def _with_argument(call: cst.Call) -> cst.Call:
    *others, last = call.args
    added = last.with_changes(keyword=cst.Name("position_ids"), value=cst.Name("position_ids"), equal=_EQUAL)
    last = last.with_changes(comma=call.args[0].comma, whitespace_after_arg=cst.SimpleWhitespace(""))
    return call.with_changes(args=[*others, last, added])


def _with_removal(tree: Tree, owner: str) -> Any:
    [removal] = statements(_REMOVAL.format(owner=owner, method=_CALLED_BY_GENERATE), tree.module)
    blank = [cst.EmptyLine(indent=False), cst.EmptyLine(indent=False)]
    return lambda node: [node, removal.with_changes(leading_lines=blank)]


def _with_modules(tree: Tree, line: Any) -> list:
    """Put `import copy` and `import inspect` before the file's first import."""
    missing = [name for name in ("copy", "inspect") if tree.name_of(name) != name]
    added = [statement for name in missing for statement in statements(f"import {name}\n", tree.module)]
    if not added:
        return [line]
    added[0] = added[0].with_changes(leading_lines=line.leading_lines)
    return [*added, line.with_changes(leading_lines=[])]


RULE = Rule(
    id="causal-mask",
    target="modeling",
    releases="4.53 and later",
    cause=(
        "From 4.53 on generate() calls the model's mask builder for static caches with other arguments, from 5.20 on "
        "StaticCache has no get_max_cache_shape, and assisted decoding gets a mask of the wrong length. "
        "Sequences packed into a row, which later releases tell apart by position_ids, see one another."
    ),
    before=(
        "import torch\n"
        "\n"
        "class Model(Base):\n"
        "    def forward(self, x, mask, position_ids):\n"
        "        return self._update_causal_mask(mask, x, position_ids, None, False)\n"
        "\n"
        "    def _update_causal_mask(\n"
        "        self, attention_mask, input_tensor, cache_position, past_key_values, output_attentions\n"
        "    ):\n"
        "        return self._prepare_4d_causal_attention_mask_with_cache_position(attention_mask)\n"
        "\n"
        "    @staticmethod\n"
        "    def _prepare_4d_causal_attention_mask_with_cache_position(attention_mask): ...\n"
    ),
    after=(
        "import copy\n"
        "import inspect\n"
        "import torch\n" + _IMPORT + "\n"
        "class Model(Base):\n"
        "    def forward(self, x, mask, position_ids):\n"
        "        return self._update_causal_mask(mask, x, position_ids, None, False, position_ids=position_ids)\n"
        "\n"
        "    def _update_causal_mask(\n"
        "        self, attention_mask, input_tensor, cache_position, past_key_values, output_attentions, "
        "position_ids=None\n"
        "    ):\n"
        + "".join(f"        {line}\n" for line in _CALL.format(embeds="input_tensor", torch="torch").splitlines())
        + "        return self._prepare_4d_causal_attention_mask_with_cache_position(attention_mask)\n"
        "\n"
        "    @staticmethod\n"
        "    def _prepare_4d_causal_attention_mask_with_cache_position(attention_mask): ...\n"
        "\n"
        "\n" + _REMOVAL.format(owner="Model", method=_CALLED_BY_GENERATE)
    ),
    trf=(),
    rewrite=rewrite,
)
