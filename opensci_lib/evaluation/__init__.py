"""Score a model folder with lm-evaluation-harness, item by item."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from opensci_lib.errors import OpensciError
from opensci_lib.evaluation import items
from opensci_lib.evaluation.harness import BACKENDS, GROUPS, OFFLINE, TASKS, TOO_LONG, Harness
from opensci_lib.model_folder import check_model_folder, files, read_json, states, write_json

_TABLES = ("samples.parquet", "positions.parquet")


def evaluate(
    model_path: Path | str,
    output_dir: Path | str,
    tasks: list[str] | str | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    dtype: str = "auto",
    device: str = "auto",
    too_long: str = "refuse",
    backend: str = "hf",
    tensor_parallel_size: int | None = None,
    harness: Harness | None = None,
    **provenance: Any,
) -> dict[str, Any]:
    """Score a folder on tasks and return what `eval.json` holds: the harness's own results, and how they came about.

    Writes to `output_dir`

    - `eval.json`: the harness's result schema, with `run`: the settings, `provenance`, `batch_size_used`, which
      says for each task what size memory sufficed for, and `items_too_long`, the number of items of each task that
      `too_long` was about
    - `samples.parquet`: a row per item, see `items.sample_row`
    - `positions.parquet`: a row per token of perplexity tasks, see `items.positions`

    A finished task is kept in `output_dir/evaluation` until all are: a call that stops half-way goes on there. What
    was computed with other settings, from other files or by other versions is computed again; another `too_long` is
    another setting only for tasks that have such items.

    Args:
        model_path: a model folder, run as it is.
        output_dir: an existing folder.
        tasks: names of the harness's tasks, of `GROUPS`, or YAML files; by default `OFFLINE`.
        num_fewshot: examples before each item; by default what the task or the group says.
        limit: score only the first items of each task.
        batch_size: items computed at once; halved, with a message, where memory does not suffice.
        dtype: see `load`.
        device: see `load`.
        too_long: what becomes of an item longer than the model's context: "refuse" stops here, "truncate" cuts off
            its beginning, as the harness's own command does, "skip" leaves it out of all scores.
        backend: what runs the model: one of `BACKENDS`, "hf" for transformers.
        tensor_parallel_size: how many processes of vLLM share the model; None or 0: one for each GPU, or one.
        harness: what knows tasks and scores them; by default that of this kernel environment.
        provenance: what else to write to `eval.json`: model, revision, variant.

    Raises:
        OpensciError: an unknown `too_long`, backend or task, a task file that can't be read, data that are
            unavailable, an item longer than the model's context, a task that was asked for twice,
            processes that can't share the model or that the backend does not have.

    """
    if too_long not in TOO_LONG:
        raise OpensciError(f"Unknown too_long {too_long!r}: choose one of {', '.join(TOO_LONG)}.")
    if backend not in BACKENDS:
        raise OpensciError(f"Unknown backend {backend!r}: choose one of {', '.join(BACKENDS)}.")
    if tensor_parallel_size and backend != "vllm":
        raise OpensciError("tensor_parallel_size is about vLLM's processes: take the backend vllm, or leave it out.")
    harness = harness or Harness()
    folder, output = check_model_folder(model_path), Path(output_dir)
    engine: dict[str, Any] = {"backend": backend, "tensor_parallel_size": tensor_parallel_size or None}
    engine = {} if backend == "hf" else engine
    settings = {
        "model_path": str(model_path),
        "files": states(files(folder)),
        "num_fewshot": num_fewshot,
        "limit": limit,
        "batch_size": batch_size,
        "dtype": dtype,
        "device": device,
        "versions": harness.versions,
        **engine,
    }
    finished = output / "evaluation"
    finished.mkdir(exist_ok=True)
    parts: list[Path] = []
    lm = None
    for name, count in shots(tasks or OFFLINE, num_fewshot).items():
        part = finished / name.replace("/", "--")
        parts.append(part)
        wanted = {**settings, "num_fewshot": count, "task": states(_task_files(name))}
        record = part / "settings.json"
        if record.exists() and read_json(record) in ({**wanted, "too_long": how} for how in (None, too_long)):
            continue
        shutil.rmtree(part, ignore_errors=True)
        loaded = harness.tasks(name)
        lm = lm or harness.model(folder, dtype, device, batch_size, too_long, *engine.values())
        results = harness.score(lm, loaded, count, limit)
        results["batch_size_used"] = {name: lm.batch_size}
        befell = results["items_too_long"]
        _write(part, results, lambda text, lm=lm: harness.token_nats(lm, text))
        write_json(record, {**wanted, "too_long": too_long if befell else None})
    results = merged([read_json(part / "results.json") for part in parts])
    found = {name: results.pop(name) for name in ("batch_size_used", "items_too_long")}
    results["run"] = {**settings, "too_long": too_long, **found, **provenance}
    for table in _TABLES:
        partial = output / f"{table}.partial"
        pd.concat([pd.read_parquet(part / table) for part in parts], ignore_index=True).to_parquet(partial)
        partial.replace(output / table)
    write_json(output / "eval.json", results)
    shutil.rmtree(finished)
    return results


def fetch(tasks: list[str] | str, harness: Harness | None = None) -> list[str]:
    """Download the datasets of tasks to the cache of the `datasets` library and return the tasks' names."""
    harness = harness or Harness()
    names = list(shots(tasks, None))
    for name in names:
        harness.tasks(name)
    return names


def shots(tasks: list[str] | str, num_fewshot: int | None) -> dict[str, int | None]:
    """Return {task: number of examples} with `GROUPS` spelt out; None leaves it to the task."""
    counts: dict[str, int | None] = {}
    for name in [tasks] if isinstance(tasks, str) else tasks:
        counts |= GROUPS.get(name, {name: None})
    return counts if num_fewshot is None else dict.fromkeys(counts, num_fewshot)


def merged(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one result of the harness from several: tables by task are joined, all else is the last one's.

    Raises:
        OpensciError: when a task is in two of them.

    """
    whole: dict[str, Any] = {}
    for part in parts:
        if twice := sorted(whole.get("results", {}).keys() & part["results"].keys()):
            raise OpensciError(f"Task {twice[0]} was asked for twice: name it, or a group or file that holds it.")
        for key, value in part.items():
            by_task = isinstance(value, dict) and key != "config"
            whole[key] = {**whole.get(key, {}), **value} if by_task else value
    return whole


def _task_files(name: str) -> list[Path]:
    """Return a task's file and those beside it that it names, or nothing for a task of the harness."""
    file = Path(name) if Path(name).is_file() else TASKS / f"{name}.yaml"
    if not file.is_file():
        return []
    text = file.read_text(encoding="utf-8", errors="replace")
    beside = [other for other in sorted(file.parent.iterdir()) if other.is_file() and other.stem in text]
    return [file, *beside]


def _write(part: Path, results: dict[str, Any], token_nats: Any) -> None:
    """Write what the harness found out about one name to its folder: tables, and all else as JSON."""
    part.mkdir()
    logged, configs = results.pop("samples"), results["configs"]
    tables = (items.samples(configs, logged), items.positions(configs, logged, token_nats))
    for name, table in zip(_TABLES, tables, strict=True):
        table.to_parquet(part / name)
    (part / "results.json").write_text(json.dumps(results, default=str), encoding="utf-8")
