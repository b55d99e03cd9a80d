"""The page that opens a model's results: what was found, where it is shown, and a row a release."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from opensci_lib.compat import state
from opensci_lib.errors import OpensciError
from opensci_lib.reports import figures, findings
from opensci_lib.reports.compare import find_runs
from opensci_lib.reports.family import read_table
from opensci_lib.runs import VARIANTS, ascending
from opensci_lib.runs.reference import reference_of

#: The reports in the order in which the page shows them: name, title, its table, and what that table says in a line.
REPORTS = [
    ("summary", "Logits", "parity.csv", findings.equal_releases),
    ("evaluation", "Scores", "evaluation.csv", findings.equal_scores),
    ("compatibility", "Features", "compat.csv", findings.compat_verdict),
]
#: What the pages of a release show, and the data of a run.
_PAGES = {"infer": "logits", "evaluate": "scores", "compat": "features"}
_DATA = ["run.json", "eval.json", "capture.safetensors", "samples.parquet"]


def index(output_dir: Path | str, title: str | None = None) -> Path:
    """Write and return `index.html` in a folder of results: findings and links, of whatever is there.

    The title is the folder's name unless another one is given.

    Raises:
        OpensciError: when the folder holds no `parity.csv`.

    """
    folder = Path(output_dir)
    if not (folder / "parity.csv").exists():
        raise OpensciError(f"{folder} holds no parity.csv: run `snakemake` first.")
    tables = {name: read_table(folder / name) for *_, name, _ in REPORTS if (folder / name).exists()}
    parity = tables["parity.csv"]
    template = Environment(
        loader=PackageLoader("opensci_lib.reports", "pages"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    ).get_template("home.html.j2")
    page = template.render(
        title=title or folder.name,
        verdict=findings.parity_verdict(parity),
        reference=reference_of(folder),
        picture=Markup(figures.parity_matrix(parity)._repr_html_()),
        reports=[
            (f"{name}.html", title, finding(tables[table]) if table in tables else "")
            for name, title, table, finding in REPORTS
            if (folder / f"{name}.html").exists()
        ],
        variants=list(VARIANTS),
        releases=_releases(folder, tables),
        runs=[
            {"name": "/".join(run.path.parts[-2:]), "files": _links(folder, run.path, _DATA)}
            for run in find_runs(folder)
        ],
        data=[_link(folder, path) for path in sorted(folder.iterdir()) if path.suffix in (".csv", ".png", ".json")],
    )
    partial = folder / ".index.html"
    partial.write_text(page, encoding="utf-8")
    return partial.rename(folder / "index.html")


def _releases(folder: Path, tables: dict[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """Return a row a release: its logits by variant, the fixed folder's scores and features, and its pages."""
    logits = {
        (run["tf_version"], run["variant"]): findings.parity_cell(run["equal"], run["max_abs_diff"], run["failed"])
        for run in findings.parity_by_run(tables["parity.csv"]).to_dict("records")
    }
    scores, features = (_of_fixed(tables.get(name)) for name in ("evaluation.csv", "compat.csv"))
    pages = {(path.parent.name, path.stem): path for name in _PAGES for path in folder.glob(f"*/{name}.html")}
    names = ascending(release for release, _ in [*logits, *pages] if release not in VARIANTS)
    return [
        {
            "name": release,
            "logits": {variant: logits.get((release, variant), "") for variant in VARIANTS},
            "scores": "" if release not in scores else "equal" if scores[release]["equal"].all() else "differ",
            "features": state(features[release]) if release in features else "",
            "pages": [
                {**_link(folder, pages[release, name]), "name": shown}
                for name, shown in _PAGES.items()
                if (release, name) in pages
            ],
        }
        for release in names
    ]


def _of_fixed(table: pd.DataFrame | None) -> dict[Any, pd.DataFrame]:
    """Return a table's rows of the fixed folder, by release."""
    return {} if table is None else dict(iter(table[table["variant"] == "fixed"].groupby("tf_version")))


def _links(folder: Path, place: Path, names: list[str]) -> list[dict[str, str]]:
    return [_link(folder, place / name) for name in names if (place / name).exists()]


def _link(folder: Path, path: Path) -> dict[str, str]:
    """Return a link as the template writes it: relative, and with the file's size."""
    size = path.stat().st_size
    readable = f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{math.ceil(size / 2**10)} KiB"
    return {"href": path.relative_to(folder).as_posix(), "name": path.name, "size": readable}
