"""A run whose kernel did not live to say what became of it: its records get that sentence as the outcome."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opensci_lib.model_folder import read_json, write_json
from opensci_lib.runs import BACKENDS, VARIANTS, results_folder, variants_on


def record_failure(record: str, sentence: str, parameters: dict[str, Any]) -> None:
    """Write why a notebook that was executed with these parameters has no numbers, where it would write them.

    Beside it `<record>.failed` holds the sentence, until the notebook is executed again.
    """
    tf_version, model, revision = (parameters.get(name) for name in ("tf_version", "model", "revision"))
    folder = Path(parameters.get("output_dir") or results_folder(model or "miniature", revision) / str(tf_version))
    folder.mkdir(parents=True, exist_ok=True)
    if record == "compat.json":
        checked = {"tf_version": tf_version, "compiled": parameters.get("compiled", True)}
        write_json(folder / record, {**checked, "results": [_unchecked(variant, sentence) for variant in VARIANTS]})
    else:
        _record_variants(folder, record, sentence, parameters)
    failure_file(folder, record).write_text(f"{sentence}\n", encoding="utf-8")


def _record_variants(folder: Path, record: str, sentence: str, parameters: dict[str, Any]) -> None:
    """Write it for each variant but those that were finished: a run with the same settings goes on behind them."""
    tf_version = parameters.get("tf_version")
    outcome = {"model": parameters.get("model"), "revision": parameters.get("revision"), "commit": None}
    begun = folder / f".{record}"
    done = read_json(begun)["done"] if begun.exists() else []
    backend = [name for name in BACKENDS if name == parameters.get("backend")]
    for variant in backend or parameters.get("variants") or variants_on(str(tf_version)):
        if variant not in done:
            (folder / variant).mkdir(exist_ok=True)
            outcome |= {"variant": variant, "versions": {"transformers": tf_version}, "error": sentence}
            write_json(folder / variant / record, outcome)


def _unchecked(variant: str, sentence: str) -> dict[str, Any]:
    """Return the one result of a folder whose features could not be checked, as `compat.json` holds results."""
    feature = {"group": "weights", "feature": "the checks come to their end"}
    return {"variant": variant, **feature, "result": "fails", "seconds": 0.0, "error": sentence}


def failure_file(folder: Path, record: str) -> Path:
    """Return the file that says that a release's run did not come to its end."""
    return folder / f"{record}.failed"
