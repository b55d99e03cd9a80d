"""A run whose kernel did not live to say what became of it: its variants get that sentence as their outcome."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opensci_lib.model_folder import read_json, write_json
from opensci_lib.runs import BACKENDS, results_folder, variants_on


def record_failure(record: str, sentence: str, parameters: dict[str, Any]) -> None:
    """Write why a notebook that was executed with these parameters has no numbers, where it would write them.

    Variants that were finished before keep theirs, and a run with the same settings goes on behind them. Beside the
    folders of the variants `<record>.failed` holds the sentence, until the notebook is executed again.
    """
    tf_version, model, revision = (parameters.get(name) for name in ("tf_version", "model", "revision"))
    folder = Path(parameters.get("output_dir") or results_folder(model or "miniature", revision) / str(tf_version))
    begun = folder / f".{record}"
    done = read_json(begun)["done"] if begun.exists() else []
    backend = [name for name in BACKENDS if name == parameters.get("backend")]
    for variant in backend or parameters.get("variants") or variants_on(str(tf_version)):
        if variant not in done:
            outcome = {"model": model, "revision": revision, "commit": None, "variant": variant}
            (folder / variant).mkdir(parents=True, exist_ok=True)
            write_json(
                folder / variant / record, {**outcome, "versions": {"transformers": tf_version}, "error": sentence}
            )
    failure_file(folder, record).write_text(f"{sentence}\n", encoding="utf-8")


def failure_file(folder: Path, record: str) -> Path:
    """Return the file that says that a release's run did not come to its end."""
    return folder / f"{record}.failed"
