"""Call the release's mask builder by the name of argument that it has.

`create_causal_mask` and its kin take the embeddings as `input_embeds` until some 5.x, and as `inputs_embeds` later.
"""

import ast

from opensci_lib.hotfix.edit import Edit
from opensci_lib.hotfix.rule import Edits, Rule, Sources

_NAMES = ("input_embeds", "inputs_embeds")
_HOME = "transformers.masking_utils."
_FUNCTION = '''
def _with_embeds(builder, embeds, **kwargs):
    """Call a mask builder of transformers, which renamed its argument input_embeds to inputs_embeds."""
    name = next(name for name in inspect.signature(builder).parameters if name in ("input_embeds", "inputs_embeds"))
    return builder(**{name: embeds}, **kwargs)
'''


def edits(sources: Sources) -> Edits:
    """Look at the builder's signature where a file calls one by that name."""
    source = sources.modeling
    changed = False
    for call in source.find(ast.Call):
        if not any(name.startswith(_HOME) for name in source.names(call.func)) or call.args:
            continue
        for keyword in call.keywords:
            if keyword.arg in _NAMES:
                changed = True
                first = source.start(call.keywords[0])
                yield source.replaced(call.func, "_with_embeds")
                yield Edit(first, first, f"{source.code(call.func)}, ")
                yield source.replaced(keyword, f"embeds={source.code(keyword.value)}")
    if changed:
        if source.name_of("inspect") != "inspect":
            first = next(line for line in source.imports() if getattr(line, "module", "") != "__future__")
            yield source.before(first, "import inspect")
        yield source.below_imports(_FUNCTION)


RULE = Rule(
    id="mask-embeds",
    releases="5.23 and later",
    cause="create_causal_mask calls its argument inputs_embeds, no longer input_embeds.",
    before=(
        "from transformers.masking_utils import create_causal_mask\n"
        "\n"
        "class Model:\n"
        "    def forward(self, x):\n"
        "        return create_causal_mask(config=self.config, input_embeds=x)\n"
    ),
    after=(
        "import inspect\n"
        "from transformers.masking_utils import create_causal_mask\n"
        "\n" + _FUNCTION + "\n"
        "class Model:\n"
        "    def forward(self, x):\n"
        "        return _with_embeds(create_causal_mask, config=self.config, embeds=x)\n"
    ),
    signs=("argument 'input_embeds'", "argument 'inputs_embeds'"),
    edits=edits,
)
