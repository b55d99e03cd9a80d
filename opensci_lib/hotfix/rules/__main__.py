"""Print the page of all rules: `python -m opensci_lib.hotfix.rules > docs/rules.md`."""

from difflib import unified_diff
from textwrap import dedent

from opensci_lib.hotfix.rule import Rule
from opensci_lib.hotfix.rules import RULES

_OPENING = """\
# The rules

What `opensci hotfix` changes, why, and an example of each; `python -m opensci_lib.hotfix.rules` wrote this page.
TRF numbers are rules of `transformers-mlinter`, Hugging Face's linter
for modelling files, that find the same.

| rule | releases that need it | cause | transformers-mlinter |
|---|---|---|---|
"""


def page() -> str:
    """Return the page in Markdown: a table, then what each rule changes in an example."""
    rows = [f"| [`{r.id}`](#{r.id}) | {r.releases} | {r.cause} | {', '.join(r.trf) or ' '} |\n" for r in RULES]
    return _OPENING + "".join(rows) + "".join(map(_section, RULES))


def _section(rule: Rule) -> str:
    if rule.after is None:
        lines = ["# refused", *dedent(rule.before).strip().splitlines()]
    else:
        before, after = (dedent(text).strip().splitlines() for text in (rule.before, rule.after))
        _, _, _, *lines = unified_diff(before, after, n=len(before), lineterm="")
    return f"\n## {rule.id}\n\n{rule.cause}\n\n```diff\n" + "".join(f"{line}\n" for line in lines) + "```\n"


if __name__ == "__main__":
    print(page(), end="")
