"""What a run is: one variant of a model folder under one transformers release.

All results of a model lie in `outputs/<model>`, those of a run in `outputs/<model>/<tf_version>/<variant>`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from opensci_lib import project
from opensci_lib.errors import OpensciError

#: The release for which the open-sci-ref code was written: the reference of a model that has no other on record.
REFERENCE_RELEASE = "4.48.0"

#: Variant to the hotfix rules that make it: none at all, three, or None for all of them.
VARIANTS: dict[str, list[str] | None] = {
    "original": [],
    # What makes the file load on 5.x and nothing more: the state that misled people.
    "minimal": ["loss-kwargs", "rope-default", "tied-keys"],
    "fixed": None,
}
#: What may run the fixed folder in place of transformers. Its results lie and are shown beside those of the variants.
BACKENDS = ("vllm",)
_ORDER = [*VARIANTS, *BACKENDS]


def as_numbers(release: str) -> tuple[int, ...]:
    """Return a release as the numbers that it is ordered by: "5.10.0" is (5, 10, 0), after "5.9.0"."""
    return tuple(int(part) for part in release.split("."))


def ascending(releases: Iterable[str]) -> list[str]:
    """Return releases, each once, from the oldest to the newest."""
    return sorted(set(releases), key=as_numbers)


def in_order(variants: Iterable[str]) -> list[str]:
    """Return variants, each once: original, minimal, fixed, and fixed by other backends."""
    return sorted(set(variants), key=_ORDER.index)


def place(release: str, variant: str) -> tuple[tuple[int, ...], int]:
    """Return what a run is sorted by: its release, then its variant."""
    return as_numbers(release), _ORDER.index(variant)


def since(first: str, releases: Iterable[str]) -> list[str]:
    """Return those of some releases that are `first` or newer, ascending."""
    return [release for release in ascending(releases) if as_numbers(release) >= as_numbers(first)]


def variants_on(release: str, reference: str = REFERENCE_RELEASE) -> list[str]:
    """Return which variants run on a release: the original on 4.x and the reference, else minimal; fixed on all."""
    return ["original" if release.startswith("4.") or release == reference else "minimal", "fixed"]


def names(releases: Iterable[str], reference: str = REFERENCE_RELEASE) -> list[str]:
    """Return the runs of some releases, each release once, as "<tf_version>/<variant>"."""
    each = dict.fromkeys(releases)
    return [f"{release}/{variant}" for release in each for variant in variants_on(release, reference)]


def model_name(model: str, revision: str | None = None) -> str:
    """Return the folder name under `outputs/` of a Hub id, a local folder or the miniature."""
    name = Path(model).resolve().name if Path(model).exists() else model.replace("/", "--")
    return f"{name}@{revision}" if revision else name


def model_and_revision(name: str) -> tuple[str, str | None]:
    """Split "org/name@revision", as `config.yaml` lists models; no revision is None."""
    model, _, revision = (name, "", "") if Path(name).exists() else name.partition("@")
    return model, revision or None


def results_folder(model: str, revision: str | None = None) -> Path:
    """Return where everything about a model goes: `outputs/<model>`."""
    return project.OUTPUTS / model_name(model, revision)


def release_folder(model: str, revision: str | None = None, output_dir: Path | str | None = None) -> Path:
    """Make and return where this release's results go: `outputs/<model>/<tf_version>`, or `output_dir`."""
    import transformers

    folder = Path(output_dir or results_folder(model, revision) / transformers.__version__)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def find(folder: Path | str, file: str, runs: Iterable[str] | None = None) -> list[Path]:
    """Return the folders of the runs below `outputs/<model>` that hold a file, each once, in order.

    Args:
        folder: `outputs/<model>`.
        file: what a run of this kind writes last: run.json, eval.json.
        runs: only these, as "<tf_version>/<variant>"; by default all that are there.

    Raises:
        OpensciError: when one that is named does not hold the file.

    """
    folder = Path(folder)
    found = {path.parent for path in folder.glob(f"*/*/{file}")} if runs is None else {folder / run for run in runs}
    for path in found:
        if not (path / file).exists():
            raise OpensciError(f"{path} has no {file}: run `snakemake` first, which computes it.")
    return sorted(found, key=lambda path: place(path.parent.name, path.name))
