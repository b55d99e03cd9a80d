"""Prove published code, and write what came of it: the proofs of the package, or the table of other people's models.

uv run python benchmarks/proofs.py --ship miniature sample@dbb49e9
uv run python benchmarks/proofs.py --docs QwenLM/ParScale=parscale@cd6acb4 inclusionAI/Ling=ling@5ccaeae

A model is a folder of code and configuration, with the name to print before it and the commit behind it.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

import click

from opensci_lib.errors import OpensciError
from opensci_lib.hotfix.proofs import SHIPPED
from opensci_lib.miniature import MODEL
from opensci_lib.model_folder import read_json, write_json
from opensci_lib.project import ROOT
from opensci_lib.prove import Proof, prove


def parsed(model: str) -> tuple[str, Path, str]:
    """Return (name, folder, commit) of "NAME=FOLDER@COMMIT", of which name and commit may be left out."""
    name, _, rest = model.rpartition("=")
    folder, _, commit = rest.partition("@")
    return name or folder, MODEL if folder == "miniature" else Path(folder), commit


def row(name: str, commit: str, outcome: Proof | str) -> str:
    """Return a model's row in the table: a proof, or the sentence that says why there is none."""
    if isinstance(outcome, str):
        return f"| {name} | {commit} | - | {outcome.replace('|', '/')} |"
    wrong = [each for each in outcome.outcomes if not outcome.holds(each)]
    words = [f"equal on {len(outcome.releases)} of {len(outcome.outcomes)} releases"]
    for each in wrong:
        faults = outcome.faults(each)
        first = next(iter(faults.items()), ("logits", "other than the reference's"))
        words.append(f"{each.tf_version}: {first[0]}, {first[1].replace('|', '/')}")
    return f"| {name} | {commit} | {outcome.reference} | {'; '.join(words)} |"


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--tf_versions", help="The releases, with commas; default: all that have a lock file.")
@click.option("--ship", is_flag=True, help="Add what is proven to the proofs of the package.")
@click.option("--docs", is_flag=True, help="Write docs/other-models.md.")
def main(models: tuple[str, ...], tf_versions: str | None, ship: bool, docs: bool) -> None:
    """Prove models, each NAME=FOLDER@COMMIT."""
    releases = tf_versions.split(",") if tf_versions else None
    rows, shipped = [], read_json(SHIPPED)
    for name, folder, commit in map(parsed, models):
        outcome: Proof | str
        try:
            outcome = prove(folder, releases)
        except OpensciError as error:
            outcome = error.message.replace(f"{folder.absolute()}/", "")
        rows.append(row(name, commit, outcome))
        click.echo(rows[-1])
        if ship and isinstance(outcome, Proof) and outcome.is_proven:
            record = outcome.record(f"opensci prove --src_dir {name}")
            shipped[record.pop("digest")] = {"of": f"{name} {commit}".strip(), **record}
            write_json(SHIPPED, shipped)
    if docs:
        lines = [
            "# Other people's models",
            "",
            f"What `opensci prove` says of small twins of decoders with code of their own, on {date.today()};",
            "written by `benchmarks/proofs.py --docs`. The reference is the oldest locked release on which the",
            "unmodified folder loads and repeats itself. A refusal names the line that has no cure yet.",
            "",
            "| model | commit | reference | outcome |",
            "|---|---|---|---|",
            *rows,
        ]
        (ROOT / "docs" / "other-models.md").write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
