"""Take the code that lies beside the weights, not that of another repository on the Hub.

A model that was trained further from the Hub and saved names its code there: "owner/name--modeling.Class". What lies
in the folder is not looked at, so nothing that is rewritten in it would count.
"""

from opensci_lib.hotfix.rule import Edits, Rule, Sources


def edits(sources: Sources) -> Edits:
    """Leave out the repository in each entry of `auto_map` whose class is here."""
    here = {*sources.modeling.classes, *(sources.configuration.classes if sources.configuration else ())}
    for key, value in sources.config.get("auto_map", {}).items():
        for reference in value if isinstance(value, list) else [value]:
            repository, mark, local = (reference or "").rpartition("--")
            if mark and local.rpartition(".")[2] in here:
                yield sources.config.swap("auto_map", key, old=repository + mark, new="")


RULE = Rule(
    id="local-code",
    target="config",
    releases="all",
    cause="auto_map names the code of another repository, so what lies in the folder is not loaded.",
    before='{"auto_map": {"AutoModelForCausalLM": "org/base--modeling_opensci.ForCausalLM"}}',
    after='{"auto_map": {"AutoModelForCausalLM": "modeling_opensci.ForCausalLM"}}',
    edits=edits,
    others={"modeling": "class ForCausalLM(Base): ...\n"},
)
