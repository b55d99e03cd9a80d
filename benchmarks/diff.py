"""How much does the hotfix change in a published folder, rule by rule, and what does its pull request say?

    git clone https://github.com/LAION-AI/Open-Sci-hf
    uv run python benchmarks/diff.py Open-Sci-hf/sample > docs/pull_request.md

The folder needs no weights of its own: the hotfix does not look into them. No line of it is printed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path

import click
import numpy as np
from safetensors.numpy import save_file

from opensci_lib.hotfix import RECORD, hotfix
from opensci_lib.model_folder import files, read_json
from opensci_lib.publish import description

_PAGE = """\
# The pull request

What `opensci publish` would send to a repository with the files of LAION's
[Open-Sci-hf](https://github.com/LAION-AI/Open-Sci-hf) (`sample`), counted by `benchmarks/diff.py`: {total} changed
lines, {added} added and {removed} removed, of {lines} in the files that change. `--src_dir … --diff` shows them. Each
rule alone; what several need is in more than one row, and one line in each file is the notice of change.

| rule | added | removed | applied by `--since 4.57` |
|---|---|---|---|
{rows}

Its description, for a folder that is not proven:

---

{description}"""


def changed(diff: str) -> Counter[str]:
    """Return how many lines a diff adds ("+") and removes ("-"), without the notice of change."""
    lines = [line for line in diff.splitlines() if not line.startswith(("+++", "---", "+# Changed by"))]
    return Counter(line[0] for line in lines if line[:1] in ("+", "-"))


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    """Print the page."""
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        model.mkdir()
        for file in files(folder):
            shutil.copyfile(file, model / file.name)
        save_file({"weight": np.zeros(1, dtype=np.float32)}, model / "model.safetensors")
        fixed = hotfix(model)
        record = read_json(Path(fixed.dst_dir) / RECORD)
        late = hotfix(model, dry_run=True, since="4.57").applied
        rows = [
            f"| `{rule}` | {count['+']} | {count['-']} | {'yes' if rule in late else 'no'} |"
            for rule in fixed.applied
            if (count := changed(hotfix(model, rules=[rule], dry_run=True).diff))
        ]
        whole = Counter(line[0] for line in fixed.diff.splitlines() if not line.startswith(("+++", "---")))
        lines = sum(len((model / name).read_text().splitlines()) for name in record["changed"])
    click.echo(
        _PAGE.format(
            total=whole["+"] + whole["-"],
            added=whole["+"],
            removed=whole["-"],
            lines=f"{lines:,}",
            rows="\n".join(rows),
            description=description(record, "ORG/NAME"),
        ),
        nl=False,
    )


if __name__ == "__main__":
    main()
