"""Make the states of a model folder that are compared, and run them one after the other."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from opensci_lib import project, shim
from opensci_lib.download import download
from opensci_lib.errors import OpensciError, said_of_the_machine
from opensci_lib.hotfix import hotfix
from opensci_lib.model_folder import files, read_json, states, write_json
from opensci_lib.runs import BACKENDS, VARIANTS, in_order, release_folder, results_folder, variants_on
from opensci_lib.runs.failure import failure_file
from opensci_lib.runs.reference import reference_of


def variant_folder(model: str, variant: str, revision: str | None = None) -> Path:
    """Return a folder of `model` in the state `variant`.

    Finds or downloads the model to `outputs/<model>/original`, and hotfixes it to its sibling where the
    variant asks for it. What a backend runs is the fixed folder.
    """
    variant = "fixed" if variant in BACKENDS else variant
    if variant not in VARIANTS:
        raise OpensciError(f"Unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}.")
    folder = results_folder(model, revision)
    original = download(model, revision, folder / "original").path
    if variant == "original":
        return Path(original)
    return Path(hotfix(original, folder / variant, rules=VARIANTS[variant]).dst_dir)


@contextmanager
def prepared(model: str, variant: str, revision: str | None = None) -> Generator[Path]:
    """Yield `variant_folder`, to be loaded in this process: with the shim for "original", and without for others.

    On its reference the original needs none.
    """
    import torch
    import transformers
    from accelerate.utils.memory import clear_device_cache

    folder, dtype = variant_folder(model, variant, revision), torch.get_default_dtype()
    reference = reference_of(results_folder(model, revision)).tf_version
    with shim.apply() if variant == "original" and transformers.__version__ != reference else nullcontext():
        try:
            yield folder
        finally:
            torch.set_default_dtype(dtype)  # a load that fails midway leaves its own
            clear_device_cache(garbage_collection=True)  # the next variant needs the memory of this one


@said_of_the_machine()
def run_each(
    work: Callable[[Path, Path, dict[str, str | None]], Any],
    record: str,
    model: str,
    revision: str | None = None,
    variants: list[str] | None = None,
    output_dir: Path | str | None = None,
    **settings: Any,
) -> dict[str, Path]:
    """Do `work` for each variant of a model under this release, one after the other.

    A variant that fails does not stop the others: its sentence is its outcome, `error` in its record. Where this
    process is killed half-way, a call with the same settings goes on with the variants that are missing.

    Args:
        work: is given the model folder, the folder of the run's results, and what the run is: `model`, `revision`,
            the Hub `commit` (None elsewhere) and `variant`. It ends by writing the record.
        record: the name of the file in which `work` says what came out.
        model: a Hub id, a local folder, or the miniature.
        revision: a branch, tag or commit on the Hub.
        variants: which of `VARIANTS`; by default those that run on this release.
        output_dir: see `release_folder`.
        settings: all else that the outcome depends on.

    Returns:
        The folder of each variant's results, in order.

    Raises:
        OpensciError: an unknown variant, or a model that is unavailable; what every variant failed of.

    """
    import transformers

    output = release_folder(model, revision, output_dir)
    reference = reference_of(results_folder(model, revision)).tf_version
    wanted = variants_on(transformers.__version__, reference) if variants is None else variants
    if unknown := [variant for variant in wanted if variant not in (*VARIANTS, *BACKENDS)]:
        raise OpensciError(f"Unknown variant {unknown[0]!r}: choose some of {', '.join(VARIANTS)}.")
    found = download(model, revision, results_folder(model, revision) / "original")
    made_of = {"model": model, "revision": revision, "commit": found.commit}
    settings = {**settings, "files": states(files(Path(found.path)))}
    begun = output / f".{record}"  # which variants are done, while others are not
    done = _done(begun, settings)
    failed: dict[str, OpensciError] = {}
    results = {variant: output / variant for variant in in_order(wanted)}
    for variant in (variant for variant in results if variant not in done):
        results[variant].mkdir(exist_ok=True)
        try:
            with prepared(model, variant, revision) as folder:
                work(folder, results[variant], {**made_of, "variant": variant})
        except OpensciError as error:
            print(f"{variant} failed. {error}")
            failed[variant] = error
        else:
            done.append(variant)
            write_json(begun, {"settings": settings, "done": done})
    begun.unlink(missing_ok=True)
    failure_file(output, record).unlink(missing_ok=True)
    if len(failed) == len(results):
        raise next(iter(failed.values()))
    for variant, error in failed.items():
        versions = {"transformers": transformers.__version__}
        said = str(error).replace(f"{project.ROOT}/", "")  # results are shown to others
        outcome = {**made_of, "variant": variant, "versions": versions, "error": said}
        write_json(results[variant] / record, outcome)
    return results


def _done(begun: Path, settings: dict[str, Any]) -> list[str]:
    """Return the variants that an earlier call with the same settings finished before it was killed."""
    found = read_json(begun) if begun.exists() else {}
    return found["done"] if found.get("settings") == settings else []
