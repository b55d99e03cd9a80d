"""Score a model folder with lm-evaluation-harness, item by item.

The harness (https://github.com/EleutherAI/lm-evaluation-harness) belongs to the optional layer `evaluation` of the
kernel environments.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from opensci_lib.errors import OpensciError
from opensci_lib.generate import load
from opensci_lib.model_folder import write_json

#: The layer of the kernel environments that holds the harness.
LAYER = "evaluation"
TASKS = Path(__file__).parent / "tasks"
#: What needs no download: facts, last words, and the perplexity of prose that was read and of prose that was not.
OFFLINE = ["opensci_facts", "opensci_cloze", "opensci_recall", "opensci_prose"]
#: Groups of tasks with their numbers of examples. open-sci-0.01 is the group of https://github.com/OpenEuroLLM/oellm-cli.
GROUPS: dict[str, dict[str, int]] = {
    "open-sci-0.01": {
        **dict.fromkeys(["copa", "social_iqa", "openbookqa", "lambada_openai", "winogrande"], 0),
        "mmlu": 5,
        **dict.fromkeys(["hellaswag", "arc_easy", "arc_challenge", "commonsense_qa", "piqa", "boolq"], 10),
    }
}


def evaluate(
    model_path: Path | str,
    output_dir: Path | str,
    tasks: list[str] | str | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    dtype: str = "auto",
    device: str = "auto",
    **provenance: Any,
) -> dict[str, Any]:
    """Score a folder on tasks and return what `eval.json` holds: the harness's own results, and how they came about.

    Writes to `output_dir`

    - `eval.json`: the harness's result schema, with `run`, the settings and `provenance`
    - `samples.parquet`: a row per item: `task`, `doc_id`, `text` (the context shown), `target`, `choices`,
      `loglikelihoods` (of each choice, nats, float64), `prediction`, `correct` (0 or 1; NaN for perplexity tasks)
    - `positions.parquet`: a row per token of perplexity tasks: `task`, `doc_id`, `position`, `nats` (-log p, float64)

    A finished task is kept in `output_dir/evaluation` until all are: a call that stops half-way goes on there.

    Args:
        model_path: a model folder, run as it is.
        output_dir: an existing folder.
        tasks: names of the harness's tasks, of `GROUPS`, or YAML files; by default `OFFLINE`.
        num_fewshot: examples before each item; by default what the task or the group says.
        limit: score only the first items of each task.
        batch_size: items computed at once; halved, with a message, where memory does not suffice.
        dtype: see `load`.
        device: see `load`.
        provenance: what else to write to `eval.json`: model, revision, variant.

    Raises:
        OpensciError: an unknown task, a task file that can't be read, data that can't be had, an item longer than
            the model's context.

    """
    harness = _harness()
    shots = _shots(tasks or OFFLINE, num_fewshot)
    folder = Path(model_path)
    settings = {
        "model_path": str(folder),
        "weights": [
            [file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in sorted(folder.glob("*.safetensors"))
        ],
        "limit": limit,
        "batch_size": batch_size,
        "dtype": dtype,
        "device": device,
        "versions": _versions(),
    }
    finished = Path(output_dir) / "evaluation"
    finished.mkdir(exist_ok=True)
    scored: dict[str, Path] = {}
    lm = None
    for name, count in shots.items():
        scored[name] = finished / Path(name).stem
        wanted = {**settings, "num_fewshot": count}
        if (record := scored[name] / "settings.json").exists() and json.loads(record.read_text()) == wanted:
            continue
        shutil.rmtree(scored[name], ignore_errors=True)
        loaded = harness.tasks(name)
        lm = lm or harness.model(*load(folder, dtype, device), batch_size)
        _score(harness, lm, loaded, name, count, limit, scored[name])
        write_json(record, wanted)
    results = _merged([json.loads((path / "results.json").read_text()) for path in scored.values()])
    results["run"] = {**settings, **provenance}
    for table in ("samples", "positions"):
        frames = [pd.read_parquet(path / f"{table}.parquet") for path in scored.values()]
        partial = Path(output_dir) / f"{table}.parquet.partial"
        pd.concat(frames, ignore_index=True).to_parquet(partial, index=False)
        partial.replace(Path(output_dir) / f"{table}.parquet")
    write_json(Path(output_dir) / "eval.json", results)
    shutil.rmtree(finished)
    return results


def fetch(tasks: list[str] | str) -> list[str]:
    """Download the datasets of tasks to the cache of the `datasets` library and return the tasks' names."""
    harness, names = _harness(), list(_shots(tasks, None))
    for name in names:
        harness.tasks(name)
    return names


def _shots(tasks: list[str] | str, num_fewshot: int | None) -> dict[str, int | None]:
    """Return {task: number of examples} with the groups spelt out; None leaves it to the task."""
    shots: dict[str, int | None] = {}
    for name in [tasks] if isinstance(tasks, str) else tasks:
        shots |= GROUPS.get(name, {name: None})
    return shots if num_fewshot is None else dict.fromkeys(shots, num_fewshot)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {
        name: version(name) for name in ("lm-eval", "transformers", "torch", "datasets", "tokenizers", "opensci-lib")
    }


def _score(harness: Any, lm: Any, tasks: list, name: str, shots: int | None, limit: int | None, folder: Path) -> None:
    """Run the harness on what one name stands for and write results and tables to `folder`."""
    results = harness.simple_evaluate(
        lm, tasks=tasks, num_fewshot=shots, limit=limit, bootstrap_iters=0, log_samples=True
    )
    samples = results.pop("samples")
    folder.mkdir()
    rows = [_sample(task, results["configs"][task], item) for task, items in samples.items() for item in items]
    pd.DataFrame(rows).astype({"correct": float}).to_parquet(folder / "samples.parquet", index=False)
    rolling = [
        (task, item["doc_id"], item["arguments"][0][0])
        for task, items in samples.items()
        if results["configs"][task]["output_type"] == "loglikelihood_rolling"
        for item in items
    ]
    positions = [
        {"task": task, "doc_id": doc_id, "position": position, "nats": nats}
        for task, doc_id, text in rolling
        for position, nats in enumerate(token_nats(lm, text))
    ]
    columns = {"task": str, "doc_id": int, "position": int, "nats": float}
    pd.DataFrame(positions, columns=list(columns)).astype(columns).to_parquet(
        folder / "positions.parquet", index=False
    )
    (folder / "results.json").write_text(json.dumps(results, indent=1, default=str) + "\n")


def _sample(task: str, config: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    """Return one row of `samples.parquet` from what the harness logged of an item."""
    kind, arguments = config["output_type"], item["arguments"]
    row = {"task": task, "doc_id": item["doc_id"], "text": arguments[0][0], "correct": item.get("acc", float("nan"))}
    if kind == "loglikelihood_rolling":
        return {**row, "target": "", "choices": [], "loglikelihoods": [float(item["resps"][0][0])], "prediction": ""}
    likelihoods = [float(response[0][0]) for response in item["resps"]]
    choices = [argument[1] for argument in arguments]
    if kind == "multiple_choice":
        target = choices[int(item["target"])] if str(item["target"]).lstrip("-").isdigit() else str(item["target"])
        best = max(range(len(choices)), key=lambda i: likelihoods[i])
        return {
            **row,
            "target": target,
            "choices": choices,
            "loglikelihoods": likelihoods,
            "prediction": choices[best],
        }
    _, greedy = item["resps"][0][0]
    said = choices[0] if greedy else "(something else)"
    return {**row, "target": choices[0], "choices": choices, "loglikelihoods": likelihoods, "prediction": said}


def token_nats(lm: Any, text: str) -> list[float]:
    """Return -log p of each token of a text, nats, over the same windows as the harness's rolling log-likelihood."""
    import torch
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    windows = get_rolling_token_windows(lm.tok_encode(text), lm.prefix_token_id, lm.max_length, context_len=1)
    nats: list[float] = []
    for context, continuation in map(make_disjoint_window, windows):
        ids = torch.tensor([[*context, *continuation]], device=lm.device)
        with torch.inference_mode():
            log_probabilities = lm.model(ids[:, :-1], use_cache=False).logits[0, len(context) - 1 :].log_softmax(-1)
        chosen = log_probabilities.gather(1, ids[0, len(context) :, None])[:, 0]
        nats += (-chosen.double()).tolist()
    return nats


def _merged(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one result of the harness from several: tables by task are joined, all else is the last one's."""
    merged: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            by_task = isinstance(value, dict) and key != "config"
            merged[key] = {**merged.get(key, {}), **value} if by_task else value
    return merged


@dataclass(frozen=True)
class _Harness:
    """The parts of lm_eval that are used here."""

    simple_evaluate: Any
    manager: Any
    model: Any

    def tasks(self, name: str) -> list[Any]:
        """Return the harness's tasks of a name or a YAML file, with their data."""
        from yaml import YAMLError

        path = Path(name).absolute()
        # A file's own data lie beside it, as those of our tasks do.
        place = path.parent if path.is_file() else TASKS
        try:
            with chdir(place), _dataset_errors(name):
                manager = self.manager(include_path=str(TASKS), include_defaults=name not in OFFLINE)
                return list(manager.load(str(path) if path.is_file() else name)["tasks"].values())
        except YAMLError as error:
            raise OpensciError(f"{name} is not valid YAML ({' '.join(str(error).split())}): mend it.") from error
        except (KeyError, ValueError, TypeError) as error:
            if path.is_file():
                raise OpensciError(
                    f"{name} is no task of the harness ({error}): see its docs/task_guide.md."
                ) from error
            if not isinstance(error, KeyError):
                raise
            raise OpensciError(
                f"There is no task {name!r}: give one of {', '.join([*OFFLINE, *GROUPS])}, a task of "
                "lm-evaluation-harness, or a YAML file."
            ) from error


@contextmanager
def _dataset_errors(name: str) -> Generator[None]:
    """Say in a sentence that a task's data can't be had."""
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except (
        ConnectionError,
        FileNotFoundError,
        DatasetNotFoundError,
        DatasetsError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RuntimeError,
    ) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OpensciError(
            f"The data of task {name} can't be had ({line}): run `opensci download --tasks {name}` on a machine with "
            "a network and the same HF_HOME, with HF_DATASETS_OFFLINE unset."
        ) from error


def _harness() -> _Harness:
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        raise OpensciError(
            "lm-eval is not installed in this kernel: add it with `opensci kernels build --layer evaluation`."
        ) from error
    import torch

    class Model(HFLM):
        """The harness's own model class, strict about length and patient about memory."""

        def _loglikelihood_tokens(
            self, requests: list, disable_tqdm: bool = False, override_bs: int | None = None
        ) -> list:
            longest = max(len(context) + len(continuation) for _, context, continuation in requests)
            if longest > self.max_length + 1:
                raise OpensciError(
                    f"An item of {longest} tokens is longer than the model's context of {self.max_length}: "
                    "lower num_fewshot, or leave this task out."
                )
            size = override_bs or int(self.batch_size)
            while True:
                try:
                    return super()._loglikelihood_tokens(requests, disable_tqdm=disable_tqdm, override_bs=size)
                except (torch.OutOfMemoryError, RuntimeError) as error:
                    exhausted = isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
                    if not exhausted or size == 1:
                        raise
                size //= 2
                print(f"Memory does not suffice for batches of this size: going on with {size}.")

    def model(loaded: Any, tokenizer: Any, batch_size: int) -> Model:
        return Model(pretrained=loaded, tokenizer=tokenizer, batch_size=batch_size)

    return _Harness(simple_evaluate, TaskManager, model)
