"""Say which weight a tied weight takes after: `_tied_weights_keys` as {target: source}.

A list until 4.57, a dictionary from 5.0 on. The 4.x releases only iterate over it, which gives the
targets of a dictionary just as well.
"""

import ast

from opensci_lib.hotfix.edit import Edit
from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import Source, UnrecognisedError, dotted, method

_KEYS = "_tied_weights_keys"


def edits(sources: Sources) -> Edits:
    """Turn the list into a dictionary whose values are the input embedding's weight."""
    source = sources.modeling
    for owner in source.classes.values():
        for line in owner.body:
            match line:
                case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                    if name == _KEYS and line.value is not None:
                        yield from _with_sources(source, owner, line.value)


def _with_sources(source: Source, owner: ast.ClassDef, value: ast.expr) -> Edits:
    if isinstance(value, ast.Dict) or source.code(value) == "None":
        return
    if not isinstance(value, ast.List | ast.Tuple | ast.Set):
        raise UnrecognisedError(value, f"{_KEYS} is no literal list")
    for key in value.elts:
        if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
            raise UnrecognisedError(value, f"{_KEYS} holds something else than strings")
        if not key.value.endswith(".weight"):
            raise UnrecognisedError(value, "a tied key does not end in .weight")
    start, end = source.start(value), source.end(value)
    bare = source.text[start] not in "([{"
    yield Edit(start, start if bare else start + 1, "{")
    weight = f'"{_input_embedding(source, owner)}.weight"'
    for key in value.elts:
        yield Edit(source.end(key), source.end(key), f": {weight}")
    yield Edit(end if bare else end - 1, end, "}", 1)


def _input_embedding(source: Source, owner: ast.ClassDef) -> str:
    """Return the path of the input embedding in a model: what `get_input_embeddings` returns, or its nn.Embedding."""
    if getter := method(owner, "get_input_embeddings"):
        returned = [dotted(node.value) for node in source.find(ast.Return, within=getter) if node.value]
        if len(returned) == 1 and returned[0].startswith("self."):
            return returned[0].removeprefix("self.")
    paths = _embeddings(source, owner)
    if len(paths) != 1:
        raise UnrecognisedError(owner, f"{owner.name} has {len(paths)} embeddings that the weight may be tied to")
    return paths[0]


def _embeddings(source: Source, owner: ast.ClassDef, *around: ast.ClassDef) -> list[str]:
    found = []
    for line in source.find(ast.Assign, within=owner):
        target, _, name = dotted(line.targets[0]).rpartition(".")
        if target != "self" or not isinstance(line.value, ast.Call):
            continue
        made = line.value.func
        if "torch.nn.Embedding" in source.names(made):
            found.append(name)
        elif (inner := source.classes.get(dotted(made))) is not None and inner not in (owner, *around):
            found += [f"{name}.{path}" for path in _embeddings(source, inner, owner, *around)]
    return found


RULE = Rule(
    id="tied-keys",
    releases="5.0 and later",
    cause="From 5.0 on _tied_weights_keys must say which weight a tied one takes after; a list fails to load.",
    before=(
        "class ForCausalLM(PreTrainedModel):\n"
        '    _tied_weights_keys = ["lm_head.weight"]\n'
        "\n"
        "    def get_input_embeddings(self):\n"
        "        return self.model.embed_tokens\n"
    ),
    after=(
        "class ForCausalLM(PreTrainedModel):\n"
        '    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}\n'
        "\n"
        "    def get_input_embeddings(self):\n"
        "        return self.model.embed_tokens\n"
    ),
    trf=("TRF048",),
    signs=("'list' object has no attribute 'keys'",),
    edits=edits,
)
