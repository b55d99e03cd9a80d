"""Say which weight a tied weight takes after: `_tied_weights_keys` as {target: source}.

A list until 4.57, a dictionary from 5.0 on. The 4.x releases only iterate over it, which gives the
targets of a dictionary just as well.

5.3 alone has a fault in `mark_tied_weights_as_initialized`: for a model with code of its own it drops
every weight to be tied from the missing ones, then takes it for loaded, and leaves it untied and empty.
"""

from typing import Any

import libcst as cst
import libcst.matchers as m

from opensci_lib.hotfix.rule import Rule, Sources
from opensci_lib.hotfix.tree import Tree, UnrecognisedError, method, replace, statements

_ASSIGNMENT = m.SimpleStatementLine(
    body=[
        m.Assign(targets=[m.AssignTarget(target=m.Name("_tied_weights_keys"))])
        | m.AnnAssign(target=m.Name("_tied_weights_keys"), value=~m.MatchIfTrue(lambda value: value is None))
    ]
)

_MARK = """
def mark_tied_weights_as_initialized(self, *args):
    tied = [(info, info.missing_keys & self.all_tied_weights_keys.keys()) for info in args]
    super().mark_tied_weights_as_initialized(*args)
    for info, keys in tied:
        info.missing_keys |= keys  # transformers 5.3 takes them for loaded and leaves them untied and empty
"""


def rewrite(sources: Sources) -> cst.Module | None:
    """Turn the list into a dictionary whose values are the input embedding's weight, and see that 5.3 ties them."""
    tree = sources.modeling
    changes: dict = {}
    for owner in tree.classes.values():
        lines: Any = owner.body.body
        for line in lines:
            if not m.matches(line, _ASSIGNMENT):
                continue
            value = line.body[0].value
            if m.matches(value, m.Dict() | m.Name("None")):
                continue
            if not m.matches(value, m.List() | m.Tuple() | m.Set()):
                raise UnrecognisedError(value, "_tied_weights_keys is no literal list")
            targets = [element.value for element in value.elements]
            if not all(m.matches(target, m.SimpleString()) for target in targets):
                raise UnrecognisedError(value, "_tied_weights_keys holds something else than strings")
            if not all(target.evaluated_value.endswith(".weight") for target in targets):
                raise UnrecognisedError(value, "a tied key does not end in .weight")
            source = cst.SimpleString(f'"{_input_embedding(tree, owner)}.weight"')
            pairs = [cst.DictElement(key=target, value=source.deep_clone()) for target in targets]
            changes[value] = cst.Dict(elements=pairs)
            [mark] = statements(_MARK.lstrip("\n"), tree.module)
            mark = mark.with_changes(leading_lines=[cst.EmptyLine(indent=False)])
            changes[owner.body] = lambda body, mark=mark: body.with_changes(body=[*body.body, mark])
    return replace(tree.module, changes) if changes else None


def _input_embedding(tree: Tree, owner: cst.ClassDef) -> str:
    """Return the path of the input embedding in a model: what `get_input_embeddings` returns, or its nn.Embedding."""
    if getter := method(owner, "get_input_embeddings"):
        returned = [tree.code(node.value) for node in tree.find(m.Return(value=m.Attribute()), getter)]
        if len(returned) == 1 and returned[0].startswith("self."):
            return returned[0].removeprefix("self.")
    paths = _embeddings(tree, owner)
    if len(paths) != 1:
        raise UnrecognisedError(
            owner, f"{owner.name.value} has {len(paths)} embeddings that the weight may be tied to"
        )
    return paths[0]


def _embeddings(tree: Tree, owner: cst.ClassDef) -> list[str]:
    found = []
    assigned = m.Assign(targets=[m.AssignTarget(target=m.Attribute(value=m.Name("self")))], value=m.Call())
    for node in tree.find(assigned, owner):
        name, made = node.targets[0].target.attr.value, node.value.func
        if "torch.nn.Embedding" in tree.names(made):
            found.append(name)
        elif (inner := tree.classes.get(tree.code(made))) is not None and inner is not owner:
            found += [f"{name}.{path}" for path in _embeddings(tree, inner)]
    return found


RULE = Rule(
    id="tied-keys",
    target="modeling",
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
        + "".join(f"    {line}".rstrip() + "\n" for line in _MARK.splitlines())
    ),
    trf=("TRF048",),
    signs=("'list' object has no attribute 'keys'",),
    rewrite=rewrite,
)
