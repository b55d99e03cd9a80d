"""Let the release build the causal mask where it can.

`transformers.masking_utils.create_causal_mask` exists from 4.53 on. Before, a model built its mask itself. Until 5.2
`generate` also calls the model's `_prepare_4d_causal_attention_mask_with_cache_position` for static caches.
"""

import ast

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
        config = copy.copy(config)
        config._attn_implementation = "eager"  # on which the layers fall back
        if attention_mask is not None and attention_mask.dtype == {torch}.bool and attention_mask.dim() == 4:
            lowest = {torch}.finfo({embeds}.dtype).min  # eager attention adds the mask to the scores
            attention_mask = {torch}.where(attention_mask, 0.0, lowest).to({embeds}.dtype)
    # Between releases one of these changed its name and another went.
    inputs = {{"input_embeds": {embeds}, "inputs_embeds": {embeds}, "cache_position": cache_position}}
    known = inspect.signature(create_causal_mask).parameters
    inputs = {{name: value for name, value in inputs.items() if name in known}}
    inputs["position_ids"] = position_ids  # where those that were given start again, another sequence does
    return create_causal_mask(
        config=config, attention_mask=attention_mask, past_key_values=past_key_values, **inputs
    )
"""


def edits(sources: Sources) -> Edits:
    """Call `create_causal_mask` first in `_update_causal_mask`."""
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
    if changed:
        yield source.below_imports(_IMPORT)
        yield from source.with_modules("copy", "inspect")


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
        in_place = "position_ids" not in known and not call.keywords and len(call.args) == len(known) - 1
        yield from source.appended([*call.args, *call.keywords], name if in_place else f"position_ids={name}")


RULE = Rule(
    id="causal-mask",
    releases="4.53 and later",
    cause=(
        "From 5.20 on StaticCache has no get_max_cache_shape, and assisted decoding gets a mask of the wrong length. "
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
        "        return self._update_causal_mask(mask, x, position_ids, None, False, position_ids)\n"
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
    ),
    edits=edits,
)
