"""The three states of a model folder that the pipeline compares."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from opensci_lib import project, shim
from opensci_lib.download import download
from opensci_lib.errors import OpensciError
from opensci_lib.hotfix import hotfix
from opensci_lib.releases import as_numbers

#: Variant to the hotfix rules that make it: none at all, three, or None for all of them.
VARIANTS: dict[str, list[str] | None] = {
    "original": [],
    # What makes the file load on 5.x and nothing more: the state that misled people.
    "minimal": ["loss-kwargs", "rope-default", "tied-keys"],
    "fixed": None,
}


def in_order(variants: Iterable[str]) -> list[str]:
    """Return variants, each once: original, minimal, fixed."""
    return sorted(set(variants), key=list(VARIANTS).index)


def place(release: str, variant: str) -> tuple[tuple[int, ...], int]:
    """Return what a run is sorted by: its release, then its variant."""
    return as_numbers(release), list(VARIANTS).index(variant)


def model_name(model: str, revision: str | None = None) -> str:
    """Return the folder name under `outputs/` of a Hub id, a local folder or the miniature."""
    name = Path(model).resolve().name if Path(model).exists() else model.replace("/", "--")
    return f"{name}@{revision}" if revision else name


def model_and_revision(name: str) -> tuple[str, str | None]:
    """Split "org/name@revision", as `config.yaml` lists models; no revision is None."""
    model, _, revision = (name, "", "") if Path(name).exists() else name.partition("@")
    return model, revision or None


def model_folder(model: str, revision: str | None = None) -> Path:
    """Return where everything about a model goes: `outputs/<model>`."""
    return project.OUTPUTS / model_name(model, revision)


def variant_folder(model: str, variant: str, revision: str | None = None) -> Path:
    """Return a folder of `model` in the state `variant`.

    Finds or downloads the model to `outputs/<model>/original`, and hotfixes it to its sibling where the
    variant asks for it.
    """
    if variant not in VARIANTS:
        raise OpensciError(f"Unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}.")
    folder = model_folder(model, revision)
    original = download(model, revision, folder / "original").path
    if variant == "original":
        return Path(original)
    return Path(hotfix(original, folder / variant, rules=VARIANTS[variant]).dst_dir)


def prepare(model: str, variant: str, revision: str | None = None) -> Path:
    """Return `variant_folder`, ready to load in this process: applies the shim for "original"."""
    folder = variant_folder(model, variant, revision)
    if variant == "original":
        shim.apply()
    return folder


def provenance(model: str, revision: str | None, variant: str) -> dict[str, str | None]:
    """Return what a prepared model is: `model`, `revision`, the Hub `commit` (None elsewhere) and `variant`."""
    found = download(model, revision, model_folder(model, revision) / "original")
    return {"model": model, "revision": revision, "commit": found.commit, "variant": variant}


def run_folder(
    model: str, revision: str | None, variant: str | None = None, output_dir: Path | str | None = None
) -> Path:
    """Make and return where results go: `outputs/<model>/<tf_version>[/<variant>]`, or `output_dir`."""
    import transformers

    folder = Path(output_dir or model_folder(model, revision) / transformers.__version__ / (variant or ""))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def releases_and_variants(releases: list[str]) -> list[tuple[str, str]]:
    """Return which variants run on which releases: the original on 4.x, minimal on 5.x, fixed on all."""
    return [
        (release, variant)
        for release in dict.fromkeys(releases)
        for variant in ("original" if release.startswith("4.") else "minimal", "fixed")
    ]
