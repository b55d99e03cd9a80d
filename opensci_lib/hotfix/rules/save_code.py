"""Save the code with the model.

`save_pretrained` copies the modelling file when the class names its auto class. Releases from 4.53 on
name it themselves while loading remote code, 4.48 does not, and saves a folder that can't be loaded.
"""

import ast

from opensci_lib.hotfix.rule import Edits, Rule, Sources
from opensci_lib.hotfix.source import Function, is_docstring, method


def edits(sources: Sources) -> Edits:
    """Set `_auto_class` on each class that `auto_map` names."""
    source, done = sources.modeling, set()
    for auto_class, reference in sources.config.get("auto_map", {}).items():
        owner = source.classes.get(reference.rpartition(".")[2]) if isinstance(reference, str) else None
        # A base class without forward would hand the attribute on to all.
        if owner is None or owner in done or method(owner, "forward") is None or "_auto_class" in source.code(owner):
            continue
        done.add(owner)
        following = owner.body[min(is_docstring(owner.body[0]), len(owner.body) - 1)]
        gap = "\n" if isinstance(following, Function | ast.ClassDef) else ""
        yield source.first_in(
            owner, f'_auto_class = "{auto_class}"  # so that save_pretrained copies this file\n{gap}'
        )


RULE = Rule(
    id="save-code",
    releases="4.48 to 4.52",
    cause="save_pretrained leaves out the modelling file unless the class names its auto class.",
    before="class ForCausalLM(Base):\n    main_input = 1\n\n    def forward(self): ...\n",
    after=(
        "class ForCausalLM(Base):\n"
        '    _auto_class = "AutoModelForCausalLM"  # so that save_pretrained copies this file\n'
        "    main_input = 1\n"
        "\n"
        "    def forward(self): ...\n"
    ),
    edits=edits,
    signs=("does not appear to have a file named modeling",),
    others={"config": '{"auto_map": {"AutoModelForCausalLM": "modeling_opensci.ForCausalLM"}}'},
)
