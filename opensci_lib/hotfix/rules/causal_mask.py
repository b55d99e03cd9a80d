"""Let the release build the causal mask where it can.

`transformers.masking_utils.create_causal_mask` exists from 4.53 on. Before, a model built its mask
itself, and `generate` called its `_prepare_4d_causal_attention_mask_with_cache_position` for static
caches: until 5.2, if the model has one, but with a signature that changed on the way.
"""

import ast
import sys

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import FUNCTIONS, Function, Source, UnrecognisedError, arguments, method

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
    inputs["position_ids"] = position_ids  # where those that were given start again, another sequence does
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


def edits(sources: Sources) -> Edits:
    """Call `create_causal_mask` first in `_update_causal_mask`; hide from `generate` what it would misuse."""
    source = sources.modeling
    changed = False
    for name, owner in source.classes.items():
        called, builder = method(owner, _CALLED_BY_GENERATE), method(owner, _BUILDER)
        if builder is None and called is not None:
            raise UnrecognisedError(called, f"{name} builds its mask elsewhere than in {_BUILDER}")
        if builder is None or "create_causal_mask" in source.code(builder):
            continue
        changed = True
        yield source.first_in(builder, _call(source, builder))
        yield from _with_position_ids(source, owner, builder)
        if called is not None:
            yield source.after(owner, "\n\n" + _REMOVAL.format(owner=name, method=_CALLED_BY_GENERATE))
    if changed:
        yield source.below_imports(_IMPORT)
        yield from _with_modules(source)


def _call(source: Source, builder: Function) -> str:
    known = arguments(builder)
    embeds = next((name for name in ("input_tensor", "inputs_embeds", "input_embeds") if name in known), None)
    needed = {"self", "attention_mask", "cache_position", "past_key_values", "output_attentions"}
    if embeds is None or not needed.issubset(known):
        raise UnrecognisedError(builder, f"{_BUILDER} takes other arguments than in transformers 4.48")
    if (torch := source.name_of("torch")) is None:
        raise UnrecognisedError(builder, "the file does not import torch")
    return _CALL.format(embeds=embeds, torch=torch)


def _with_position_ids(source: Source, owner: ast.ClassDef, builder: Function) -> Edits:
    """Hand the builder the caller's `position_ids`, by which later releases keep sequences apart that share a row."""
    known = arguments(builder)
    if "position_ids" not in known:
        *_, last = known
        items = [*known.values()][:-1]
        yield from source.appended([*items, source.default(builder, last) or known[last]], "position_ids=None")
    for call in source.calls(f"self.{_BUILDER}", owner):
        caller = source.enclosing(call, *FUNCTIONS)
        given = {keyword.arg for keyword in call.keywords}
        if caller is None or "position_ids" not in arguments(caller) or "position_ids" in given:
            continue
        name = "position_ids"
        names = source.find(ast.Name, within=caller)
        if any(isinstance(node.ctx, ast.Store) and node.id == name for node in names):
            # for those that the model makes up, 4.53 to 4.57 would build a mask, which rules out flash attention
            name = "given_position_ids"
            yield source.first_in(caller, f"{name} = position_ids")
        yield from source.appended([*call.args, *call.keywords], f"position_ids={name}")


def _with_modules(source: Source) -> Edits:
    """Import `copy` and `inspect` where the file imports the standard library."""
    imports = [line for line in source.imports() if _module(line) != "__future__"]
    standard = [line for line in imports if _module(line) in sys.stdlib_module_names]
    missing = [name for name in ("copy", "inspect") if source.name_of(name) != name]
    if not standard:
        yield source.before((imports or source.imports())[0], "".join(f"import {name}\n" for name in missing) + "\n")
        return
    for name in missing:
        later = [line for line in standard if isinstance(line, ast.ImportFrom) or line.names[0].name > name]
        yield source.before(later[0], f"import {name}") if later else source.after(standard[-1], f"import {name}")


def _module(line: ast.Import | ast.ImportFrom) -> str:
    """Return the package that an import starts from, or "" for one within the folder."""
    name = line.names[0].name if isinstance(line, ast.Import) else "" if line.level else line.module or ""
    return name.partition(".")[0]


RULE = Rule(
    id="causal-mask",
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
        "\n"
        "import torch\n"
        "\n" + _IMPORT + "\n"
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
    edits=edits,
)
