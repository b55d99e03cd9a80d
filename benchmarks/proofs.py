"""Prove published code, and write what came of it: the proofs of the package, or the table of other people's models.

uv run python benchmarks/proofs.py --ship miniature sample@dbb49e9
uv run python benchmarks/proofs.py --docs QwenLM/ParScale=parscale@cd6acb4 inclusionAI/Ling=ling@5ccaeae
uv run python benchmarks/proofs.py --docs --with transformers_stream_generator zhangningboo/Qwen-7B=qwen@ffe04dd

A model is a folder of code and configuration, with the name to print before it and the commit behind it. A run adds
its rows to the table, or replaces them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import click

from opensci_lib import kernels
from opensci_lib.errors import OpensciError
from opensci_lib.hotfix.proofs import SHIPPED
from opensci_lib.miniature import MODEL
from opensci_lib.model_folder import read_json, write_json
from opensci_lib.project import ROOT
from opensci_lib.prove import Proof, prove

PAGE = ROOT / "docs" / "other-models.md"
HEAD = [
    "# Other people's models",
    "",
    "What `opensci prove` says of decoders with code of their own, of which it makes small twins with random",
    "weights; written by `benchmarks/proofs.py --docs`. The reference is the oldest of the releases on which the",
    "unmodified folder loads and repeats itself; releases are counted from there on. Equal is bit for bit, without a",
    "fault that the reference lacks. A refusal names the line that has no cure yet: nothing is written then.",
    "",
    "| model | commit | date | releases | reference | outcome |",
    "|---|---|---|---|---|---|",
]


def parsed(model: str) -> tuple[str, Path, str]:
    """Return (name, folder, commit) of "NAME=FOLDER@COMMIT", of which name and commit may be left out."""
    name, _, rest = model.rpartition("=")
    folder, _, commit = rest.partition("@")
    return name or folder, MODEL if folder == "miniature" else Path(folder), commit


def row(name: str, commit: str, tried: str, outcome: Proof | str, packages: tuple[str, ...] = ()) -> str:
    """Return a model's row in the table: a proof, or the sentence that says why there is none."""
    reference = "-" if isinstance(outcome, str) else outcome.reference
    words = outcome if isinstance(outcome, str) else "; ".join(told(outcome))
    if packages:
        words += f" (with {', '.join(packages)})"
    return f"| {name} | {commit} | {date.today()} | {tried} | {reference} | {words.replace('|', '/')} |"


def told(proof: Proof) -> Iterator[str]:
    """Say on how many releases a proof holds, what is wrong where it does not, and what already was."""
    yield f"equal on {len(proof.releases)} of {len(proof.outcomes)}"
    wrong: dict[str, list[str]] = {}
    for each in proof.outcomes:
        if not proof.holds(each):
            first = next(iter(proof.faults(each).items()), ("logits", "other than the reference's"))
            wrong.setdefault(": ".join(first), []).append(each.tf_version)
    yield from (f"{', '.join(releases)}: {what}" for what, releases in wrong.items())
    if old := [check for check, fault in proof.original.faults.items() if fault]:
        yield f"what the unmodified folder fails on its reference is not asked for: {', '.join(old)}"


def table(rows: list[str]) -> str:
    """Return the page with rows of other runs kept, and those of the same models replaced."""
    before = PAGE.read_text(encoding="utf-8").splitlines() if PAGE.exists() else []
    kept = {line.split(" | ")[0]: line for line in before if line.startswith("| ") and not line.startswith("| model")}
    return "\n".join([*HEAD, *(kept | {line.split(" | ")[0]: line for line in rows}).values(), ""])


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--tf_versions", help="The releases, with commas; default: all that have a lock file.")
@click.option("--with", "packages", multiple=True, help="A package that the models' code needs.")
@click.option("--ship", is_flag=True, help="Add what is proven to the proofs of the package.")
@click.option("--docs", is_flag=True, help="Write docs/other-models.md.")
def main(models: tuple[str, ...], tf_versions: str | None, packages: tuple[str, ...], ship: bool, docs: bool) -> None:
    """Prove models, each NAME=FOLDER@COMMIT."""
    releases = tf_versions.split(",") if tf_versions else None
    rows, shipped = [], read_json(SHIPPED)
    tried = ", ".join(releases) if releases else f"all {len(kernels.available())} locked"
    for name, folder, commit in map(parsed, models):
        outcome: Proof | str
        try:
            outcome = prove(folder, releases, packages=packages)
        except OpensciError as error:
            # of the twin in a folder that is gone, its code is that of the model
            outcome = re.sub(r"/\S*/(?=\w+\.py)", "", error.message).replace(str(folder.absolute()), name)
        rows.append(row(name, commit, tried, outcome, packages))
        click.echo(rows[-1])
        if ship and isinstance(outcome, Proof) and outcome.is_proven:
            source = name if folder == MODEL else folder.name
            chosen = f" --tf_versions {tf_versions}" if tf_versions else ""
            record = outcome.record(f"opensci prove --src_dir {source}{chosen}")
            digest = record.pop("digest")
            shipped[digest] = {"of": f"{name} {commit}".strip(), **record}
            write_json(SHIPPED, shipped)
        if docs:
            PAGE.write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
