"""Save the code with the model.

`save_pretrained` copies the modelling file when the class names its auto class. Releases from 4.53 on
name it themselves while loading remote code, 4.48 does not, and saves a folder that can't be loaded.
"""

import libcst as cst

from opensci_lib.hotfix.rule import Rule, Sources
from opensci_lib.hotfix.tree import after_docstring, method, replace, statements


def rewrite(sources: Sources) -> cst.Module | None:
    """Set `_auto_class` on each class that `auto_map` names."""
    tree = sources.modeling
    changes: dict = {}
    for auto_class, reference in sources.config.get("auto_map", {}).items():
        owner = tree.classes.get(reference.rpartition(".")[2]) if isinstance(reference, str) else None
        # A base class without forward would hand the attribute on to all.
        if owner is None or owner in changes or method(owner, "forward") is None:
            continue
        if "_auto_class" not in tree.code(owner):
            added = statements(
                f'_auto_class = "{auto_class}"  # so that save_pretrained copies this file\n', tree.module
            )
            changes[owner] = lambda node, added=added: node.with_changes(
                body=node.body.with_changes(body=after_docstring(node.body, added))
            )
    return replace(tree.module, changes) if changes else None


RULE = Rule(
    id="save-code",
    target="modeling",
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
    trf=(),
    rewrite=rewrite,
    others={"config": '{"auto_map": {"AutoModelForCausalLM": "modeling_opensci.ForCausalLM"}}'},
)
