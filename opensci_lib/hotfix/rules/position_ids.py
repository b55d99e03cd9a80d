"""Cut the positions that `generate` hands over to the tokens that are read.

Since 5.3 `generate` counts positions itself and hands all of them over at each step. An earlier model's
`prepare_inputs_for_generation` cuts only those that it made itself: a single token is then rotated by every position.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import Function, Source, UnrecognisedError, arguments, dotted, method

_NAME, _TOKENS = "position_ids", "input_ids"
_CUT = f"""\
if {_NAME} is not None:  # since transformers 5.3 those of all tokens are given
    {_NAME} = {_NAME}[:, -{_TOKENS}.shape[1] :]
"""


def edits(sources: Sources) -> Edits:
    """Cut them where a `prepare_inputs_for_generation` takes them from what it is given."""
    source = sources.modeling
    for owner in source.classes.values():
        function = method(owner, "prepare_inputs_for_generation")
        if function is None or _TOKENS not in arguments(function) or _is_cut(source, function):
            continue
        taken = [line for line in source.find(ast.Assign, within=function) if _takes_them(line)]
        used = [
            line for line in function.body if any(name.id == _NAME for name in source.find(ast.Name, within=line))
        ]
        place = taken[0] if taken else used[0] if used and _NAME in arguments(function) else None
        if place is None:
            continue
        for name in source.find(ast.Name, within=function):
            if name.id == _TOKENS and isinstance(name.ctx, ast.Store) and source.start(name) > source.start(place):
                raise UnrecognisedError(place, f"{_TOKENS} are cut after {_NAME} are looked at")
        yield source.after(place, _CUT) if taken else source.before(place, _CUT)


def _takes_them(line: ast.Assign) -> bool:
    call = line.value
    return (
        dotted(line.targets[0]) == _NAME
        and isinstance(call, ast.Call)
        and dotted(call.func) in ("kwargs.get", "kwargs.pop")
        and isinstance(call.args[0], ast.Constant)
        and call.args[0].value == _NAME
    )


def _is_cut(source: Source, function: Function) -> bool:
    """Say whether positions are cut that are given, not only those that the function makes where there are none."""
    for line in source.find(ast.Assign, within=function):
        if dotted(line.targets[0]) == _NAME and isinstance(line.value, ast.Subscript):
            branches = [node for node in source.parents(line) if isinstance(node, ast.If)]
            if dotted(line.value.value) == _NAME and not any(
                f"{_NAME} is None" in source.code(branch.test) for branch in branches
            ):
                return True
    return False


_EXAMPLE = """\
class ForCausalLM(PreTrainedModel, GenerationMixin):
    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, **kwargs):
        input_ids = input_ids[:, past_key_values.get_seq_length() :]
        position_ids = kwargs.get("position_ids", None)
{cut}        return {{"input_ids": input_ids, "position_ids": position_ids}}
"""

RULE = Rule(
    id="position-ids",
    releases="5.3 and later",
    cause="generate() hands over the positions of all tokens at each step, also where the model reads only the last.",
    before=_EXAMPLE.format(cut=""),
    after=_EXAMPLE.format(cut="".join(f"        {line}\n" for line in _CUT.splitlines())),
    edits=edits,
)
