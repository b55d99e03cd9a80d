"""The page that links all results of a model."""

from __future__ import annotations

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from opensci_lib.errors import OpensciError
from opensci_lib.releases import as_numbers
from opensci_lib.variants import place

#: The reports in the order in which the page names them: file, title, what it answers.
REPORTS = [
    ("summary.html", "Summary", "Does every release compute the same? Logits, RoPE, features, and the causes."),
    ("evaluation.html", "Evaluation", "Does every release score the same, item by item?"),
]
#: Notebooks and data of one run, by the end of their path.
_RUN_FILES = ["infer.html", "evaluate.html", "run.json", "eval.json", "capture.safetensors", "samples.parquet"]


def index(output_dir: Path | str) -> Path:
    """Write and return `index.html` in a model's folder of results, with links to all that is there.

    Raises:
        OpensciError: when the folder holds no results.

    """
    folder = Path(output_dir)
    runs = [path.parent for path in folder.glob("*/*/run.json")]
    runs.sort(key=lambda run: place(run.parent.name, run.name))
    if not runs:
        raise OpensciError(f"{folder} holds no results: run `snakemake` first.")
    template = Environment(
        loader=PackageLoader("opensci_lib", "."), autoescape=True, trim_blocks=True, undefined=StrictUndefined
    ).get_template("index.html.j2")
    page = template.render(
        name=folder.name,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        reports=[report for report in REPORTS if (folder / report[0]).exists()],
        tables=[_link(folder, path) for path in sorted(folder.iterdir()) if path.suffix in (".csv", ".png", ".json")],
        features=[
            _link(folder, path)
            for path in sorted(folder.glob("*/compat.html"), key=lambda path: as_numbers(path.parent.name))
        ],
        runs=[_run(folder, run) for run in runs],
    )
    partial = folder / ".index.html"
    partial.write_text(page, encoding="utf-8")
    return partial.rename(folder / "index.html")


def _link(folder: Path, path: Path) -> dict[str, Any]:
    """Return a link as the template writes it: relative, and with the file's size."""
    size = path.stat().st_size
    readable = f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{math.ceil(size / 2**10)} KiB"
    return {
        "href": path.relative_to(folder).as_posix(),
        "name": path.name,
        "size": readable,
        "parent": path.parent.name,
    }


def _run(folder: Path, run: Path) -> dict[str, Any]:
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return {
        "tf_version": run.parent.name,
        "variant": run.name,
        "settings": {**record["settings"], "torch": record["versions"]["torch"]},
        "files": [_link(folder, run / name) for name in _RUN_FILES if (run / name).exists()],
    }
