"""Say which part of the model each of several processes holds.

`from_pretrained(tp_plan="auto")` and vLLM ask the configuration's class: which projections hold a part of what they
give ("colwise"), which a part of what they take ("rowwise"), and, for a pipeline, what follows what. Without an
answer some releases and vLLM fail, and others let every process hold the whole model.

The answer is read from what the file's modules do, whatever they are called: projections of a module's own input,
and one of what the module makes of them. Three and one are attention, which must take the number of heads as it
comes; two and one are a gated MLP. Other projections, such as fused ones or those of experts, are left alone.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import Function, Source, arguments, dotted, method

_TENSOR, _PIPELINE = "base_model_tp_plan", "base_model_pp_plan"
#: What is not the same in a process that holds some of the heads.
_WHOLE = re.compile(r"(n|num)_(\w+_)?heads?|hidden_size|embed_dim")


@dataclass(frozen=True)
class Decoder:
    """The model without a head, and the names of its parts."""

    owner: ast.ClassDef
    embedding: str
    layers: str
    norm: str  # of what the layers give
    #: From paths, such as "layers.*.mlp.down_proj", to "colwise" or "rowwise".
    plan: dict[str, str]
    #: Paths of the norms of each head's queries and keys.
    head_norms: list[str]


def decoder(source: Source) -> Decoder | None:
    """Return the decoder of a file whose layers consist of the usual projections, or None."""
    for owner in source.classes.values():
        made = modules(source, owner)
        embeddings = [name for name in made if is_made_of(source, made, name, "torch.nn.Embedding")]
        lists = [name for name in made if is_made_of(source, made, name, "torch.nn.ModuleList")]
        norms = [name for name in _applied(source, owner) if name in made and name not in embeddings]
        if len(embeddings) == len(lists) == 1 and norms:
            layers = {dotted(call.func) for call in source.find(ast.Call, within=made[lists[0]])} & {*source.classes}
            parts = _parts(source, source.classes[layers.pop()]) if len(layers) == 1 else None
            if parts:
                at = f"{lists[0]}.*."
                plan, head_norms = {at + path: style for path, style in parts[0].items()}, [at + n for n in parts[1]]
                return Decoder(owner, embeddings[0], lists[0], norms[-1], plan, head_norms)
    return None


def modules(source: Source, owner: ast.ClassDef) -> dict[str, ast.Call]:
    """Return what a class's `__init__` makes and keeps, by attribute."""
    initializer, found = method(owner, "__init__"), {}
    for line in source.find(ast.Assign, within=initializer) if initializer else []:
        target, _, name = dotted(line.targets[0]).rpartition(".")
        if target == "self" and isinstance(line.value, ast.Call):
            found[name] = line.value
    return found


def is_made_of(source: Source, made: dict[str, ast.Call], name: str, kind: str) -> bool:
    """Say whether an attribute is such a module."""
    return kind in source.names(made[name].func)


def _applied(source: Source, owner: ast.ClassDef) -> Iterator[str]:
    """Yield what a class applies so: x = self.norm(x); the norm is the last."""
    forward = method(owner, "forward")
    for line in source.find(ast.Assign, within=forward) if forward else []:
        match line:
            case ast.Assign(targets=[ast.Name(id=into)], value=ast.Call(made, [ast.Name(id=of)], [])):
                target, _, name = dotted(made).rpartition(".")
                if target == "self" and into == of:
                    yield name


def _parts(source: Source, layer: ast.ClassDef) -> tuple[dict[str, str], list[str]] | None:
    """Return the plan of a layer and its head norms, or None where not all its projections are the usual ones."""
    plan, head_norms, kinds = {}, [], []
    for line in source.find(ast.Assign, within=layer):
        target, _, name = dotted(line.targets[0]).rpartition(".")
        inner = {dotted(call.func) for call in source.find(ast.Call, within=line.value)} & {*source.classes}
        if target != "self" or not any(_has_projections(source, source.classes[one]) for one in inner):
            continue
        plainly = isinstance(line.value, ast.Call) and {dotted(line.value.func)} == inner
        shared = _shared(source, source.classes[inner.pop()]) if plainly else None
        if shared is None:
            return None
        kinds.append(len(shared[0]))
        plan |= {f"{name}.{path}": style for path, style in shared[0].items()}
        head_norms += [f"{name}.{path}" for path in shared[1]]
    return (plan, head_norms) if sorted(kinds) == [3, 4] else None


def _has_projections(source: Source, owner: ast.ClassDef, *around: ast.ClassDef) -> bool:
    """Say whether a module, or one that it makes, has a matrix to multiply by."""
    made = [call.func for call in source.find(ast.Call, within=owner)]
    inner = [source.classes[name] for name in {*map(dotted, made)} & {*source.classes}]
    return any("torch.nn.Linear" in source.names(node) for node in made) or any(
        _has_projections(source, one, owner, *around) for one in inner if one not in (owner, *around)
    )


def _shared(source: Source, owner: ast.ClassDef) -> tuple[dict[str, str], list[str]] | None:
    """Return the plan of attention or of a gated MLP, and its head norms, or None where it is neither."""
    made, forward = modules(source, owner), method(owner, "forward")
    taken = [*arguments(forward)][1:2] if forward else []
    if forward is None or not taken or _binds(source, forward, taken[0]):
        return None
    plan: dict[str, str] = {}
    head_norms = []
    for node in source.find(ast.Attribute, within=forward):
        name = node.attr if dotted(node) == f"self.{node.attr}" else ""
        if name not in made or not (source.names(made[name].func) or dotted(made[name].func) in source.classes):
            continue
        call = source.enclosing(node, ast.Call)
        if call is None or call.func is not node or len(call.args) != 1 or call.keywords or name in plan:
            return None
        if is_made_of(source, made, name, "torch.nn.Linear"):
            plan[name] = "colwise" if dotted(call.args[0]) == taken[0] else "rowwise"
        elif made[name].args and dotted(made[name].args[0]).endswith(".head_dim"):
            head_norms.append(name)
        else:
            return None
    linears = [name for name in made if is_made_of(source, made, name, "torch.nn.Linear")]
    whole = any(_WHOLE.fullmatch(node.attr) for node in source.find(ast.Attribute, within=forward))
    if plan.keys() != {*linears} or [*plan.values()].count("rowwise") != 1 or len(plan) not in (3, 4) or whole:
        return None
    return {name: plan[name] for name in linears}, head_norms


def _binds(source: Source, forward: Function, name: str) -> bool:
    """Say whether a function gives one of its arguments another value."""
    return any(node.id == name for node in source.find(ast.Name, within=forward) if isinstance(node.ctx, ast.Store))


def edits(sources: Sources) -> Edits:
    """Declare both plans on the class that `auto_map` names."""
    source = sources.configuration
    reference = sources.config.get("auto_map", {}).get("AutoConfig")
    name = reference.rpartition(".")[2] if isinstance(reference, str) else ""
    owner = source.classes.get(name) if source else None
    found = [plan for code in (sources.modeling, *sources.code.values()) if (plan := decoder(code))]
    if source is None or owner is None or not found or _TENSOR in source.code(owner):
        return
    [first, *_] = found
    rows = [f'    "{path}": "{style}",\n' for path, style in first.plan.items()]
    text = (
        "# for a model that several processes share\n"
        f"{_TENSOR} = {{\n{''.join(rows)}}}\n"
        f"{_PIPELINE} = {{\n"
        f'    "{first.embedding}": (["input_ids"], ["inputs_embeds"]),\n'
        f'    "{first.layers}": (["hidden_states", "attention_mask"], ["hidden_states"]),\n'
        f'    "{first.norm}": (["hidden_states"], ["hidden_states"]),\n'
        "}\n"
    )
    settings = [line for line in owner.body if isinstance(line, ast.Assign)]
    yield source.after(settings[-1], text) if settings else source.first_in(owner, f"{text}\n")


_MODELING = """\
from torch import nn

class Norm(nn.Module): ...

class Attention(nn.Module):
    def __init__(self, config):
        self.q_proj = nn.Linear(8, 8)
        self.k_proj = nn.Linear(8, 8)
        self.v_proj = nn.Linear(8, 8)
        self.o_proj = nn.Linear(8, 8)
        self.q_norm = Norm(config.head_dim)

    def forward(self, x):
        shape = (*x.shape[:-1], -1, self.head_dim)
        q = self.q_norm(self.q_proj(x).view(shape))
        attended = attention(q, self.k_proj(x).view(shape), self.v_proj(x).view(shape))
        return self.o_proj(attended)

class MLP(nn.Module):
    def __init__(self, config):
        self.gate_proj = nn.Linear(8, 16)
        self.up_proj = nn.Linear(8, 16)
        self.down_proj = nn.Linear(16, 8)

    def forward(self, x):
        return self.down_proj(act(self.gate_proj(x)) * self.up_proj(x))

class Layer(nn.Module):
    def __init__(self, config):
        self.self_attn = Attention(config)
        self.mlp = MLP(config)

class Model(PreTrainedModel):
    def __init__(self, config):
        self.embed_tokens = nn.Embedding(8, 8)
        self.layers = nn.ModuleList([Layer(config) for _ in range(2)])
        self.norm = Norm(8)
        self.post_init()

    def forward(self, x):
        x = self.embed_tokens(x)
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        return x
"""

RULE = Rule(
    id="parallel-plan",
    target="configuration",
    releases="all",
    cause=(
        'The configuration does not say how processes share the weights: with tp_plan="auto" each holds the whole '
        "model on 4.x, and 5.x and vLLM fail."
    ),
    before='class Config(PretrainedConfig):\n    model_type = "x"\n',
    after=(
        "class Config(PretrainedConfig):\n"
        '    model_type = "x"\n'
        "    # for a model that several processes share\n"
        "    base_model_tp_plan = {\n"
        '        "layers.*.self_attn.q_proj": "colwise",\n'
        '        "layers.*.self_attn.k_proj": "colwise",\n'
        '        "layers.*.self_attn.v_proj": "colwise",\n'
        '        "layers.*.self_attn.o_proj": "rowwise",\n'
        '        "layers.*.mlp.gate_proj": "colwise",\n'
        '        "layers.*.mlp.up_proj": "colwise",\n'
        '        "layers.*.mlp.down_proj": "rowwise",\n'
        "    }\n"
        "    base_model_pp_plan = {\n"
        '        "embed_tokens": (["input_ids"], ["inputs_embeds"]),\n'
        '        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),\n'
        '        "norm": (["hidden_states"], ["hidden_states"]),\n'
        "    }\n"
    ),
    edits=edits,
    others={"modeling": _MODELING, "config": '{"auto_map": {"AutoConfig": "configuration_x.Config"}}'},
)
