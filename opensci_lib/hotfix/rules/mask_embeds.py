"""Call the release's mask builder by the name of argument that it has.

`create_causal_mask` and its kin took the embeddings as `input_embeds` and later take them as `inputs_embeds`, and no
`cache_position`, which they find out themselves.
"""

import ast

from opensci_lib.hotfix.edit import Edit
from opensci_lib.hotfix.rule import Edits, Rule, Sources

_NAMES = ("input_embeds", "inputs_embeds")
_HOME = "transformers.masking_utils."
_FUNCTION = '''
def _with_embeds(builder, embeds, **kwargs):
    """Call a mask builder of transformers, which renamed input_embeds to inputs_embeds and lost cache_position."""
    known = inspect.signature(builder).parameters
    if "cache_position" not in known:
        kwargs.pop("cache_position", None)
    return builder(**{"inputs_embeds" if "inputs_embeds" in known else "input_embeds": embeds}, **kwargs)
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
    cause="create_causal_mask takes inputs_embeds, no longer input_embeds, and no cache_position.",
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
    signs=("argument 'input_embeds'", "create_causal_mask() got an unexpected keyword argument"),
    edits=edits,
)
