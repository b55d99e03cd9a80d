"""Read `config.return_dict`, not `config.use_return_dict`.

From 5.13 at the latest the second logs a warning, which `torch.compile(fullgraph=True)` can't trace.
Until 4.57 it also meant that TorchScript wants tuples.
"""

import libcst as cst
import libcst.matchers as m

from opensci_lib.hotfix.rule import Rule, Sources
from opensci_lib.hotfix.tree import replace

_CONFIG = m.Name("config") | m.Attribute(attr=m.Name("config"))
_USE = m.Attribute(value=_CONFIG, attr=m.Name("use_return_dict"))


def rewrite(sources: Sources) -> cst.Module | None:
    """Write out what the property computes."""
    tree = sources.modeling
    changes: dict = {}
    for use in tree.find(_USE):
        config = tree.code(use.value)
        changes[use] = cst.parse_expression(
            f'({config}.return_dict and not getattr({config}, "torchscript", False))', tree.module.config_for_parsing
        )
    return replace(tree.module, changes) if changes else None


RULE = Rule(
    id="return-dict",
    target="modeling",
    releases="5.13 and later",
    cause="config.use_return_dict logs a warning of deprecation, which also breaks torch.compile(fullgraph=True).",
    before="return_dict = return_dict if return_dict is not None else self.config.use_return_dict\n",
    after=(
        "return_dict = return_dict if return_dict is not None else "
        '(self.config.return_dict and not getattr(self.config, "torchscript", False))\n'
    ),
    trf=(),
    rewrite=rewrite,
)
