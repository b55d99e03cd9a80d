"""The page that links all results of a model."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from opensci_lib.errors import OpensciError
from opensci_lib.reports.compare import Run, find_runs
from opensci_lib.runs import ascending

#: The reports in the order in which the page names them: file, title, what it answers.
REPORTS = [
    ("summary.html", "Summary", "Does every release compute the same? Logits, RoPE, and the causes."),
    ("evaluation.html", "Evaluation", "Does every release score the same, item by item?"),
    ("compatibility.html", "Compatibility", "What works on which release? Caches, saving, training, the tokenizer."),
]
#: Pages of a release, and data of one run.
_PAGES = ["infer.html", "evaluate.html", "compat.html"]
_DATA = ["run.json", "eval.json", "capture.safetensors", "samples.parquet"]


def index(output_dir: Path | str) -> Path:
    """Write and return `index.html` in a model's folder of results, with links to all that is there.

    Raises:
        OpensciError: when the folder holds no results.

    """
    folder = Path(output_dir)
    runs = find_runs(folder)
    if not runs:
        raise OpensciError(f"{folder} holds no results: run `snakemake` first.")
    template = Environment(
        loader=PackageLoader("opensci_lib.reports", "."), autoescape=True, trim_blocks=True, undefined=StrictUndefined
    ).get_template("index.html.j2")
    page = template.render(
        name=folder.name,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        reports=[report for report in REPORTS if (folder / report[0]).exists()],
        tables=[_link(folder, path) for path in sorted(folder.iterdir()) if path.suffix in (".csv", ".png", ".json")],
        releases={
            release: {
                "pages": _links(folder, folder / release, _PAGES),
                "runs": [_run(folder, run) for run in runs if run.path.parent.name == release],
            }
            for release in ascending([*(run.path.parent.name for run in runs), *_with_pages(folder)])
        },
    )
    partial = folder / ".index.html"
    partial.write_text(page, encoding="utf-8")
    return partial.rename(folder / "index.html")


def _with_pages(folder: Path) -> list[str]:
    return [path.parent.name for name in _PAGES for path in folder.glob(f"*/{name}")]


def _links(folder: Path, place: Path, names: list[str]) -> list[dict[str, str]]:
    return [_link(folder, place / name) for name in names if (place / name).exists()]


def _link(folder: Path, path: Path) -> dict[str, str]:
    """Return a link as the template writes it: relative, and with the file's size."""
    size = path.stat().st_size
    readable = f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{math.ceil(size / 2**10)} KiB"
    return {"href": path.relative_to(folder).as_posix(), "name": path.name, "size": readable}


def _run(folder: Path, run: Run) -> dict[str, Any]:
    settings = {} if run.error else {**run.record["settings"], "torch": run.record["versions"]["torch"]}
    return {
        "variant": run.path.name,
        "error": run.error,
        "settings": settings,
        "files": _links(folder, run.path, _DATA),
    }
