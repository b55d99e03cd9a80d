"""A model that two processes share: `tp_plan="auto"`, on CPUs by gloo."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from opensci_lib.compat import feature
from opensci_lib.compat.case import Case, expect, expect_close, expect_equal, logits
from opensci_lib.model_folder import check_processes, read_config

#: With biases, which a native model has only where it is told so: a process must not add its own once more.
_BIASES = {"attention_bias": True, "mlp_bias": True, "num_hidden_layers": 2}
_TIED, _UNTIED = "tied", "untied, grouped heads"
_PROCESSES, _SECONDS = 2, 120
#: What a process found out, by step: a value, or the text of an error.
Found = dict[str, Any]


def _shapes(case: Case) -> dict[str, Any]:
    heads = case.model.config.num_attention_heads
    return {
        _TIED: case.random(**_BIASES, num_key_value_heads=heads),
        _UNTIED: case.random(**_BIASES, num_key_value_heads=heads // 2, tie_word_embeddings=False),
    }


@cache
def _shared(case: Case) -> dict[str, list[Found]]:
    """Return what both processes found out about each shape, then what one process alone did, and then loaded."""
    models = _shapes(case)
    folders = {name: case.place(f"shared-{number}") for number, name in enumerate(models)}
    for name, model in models.items():
        model.save_pretrained(folders[name])
    together = _in_processes(case, folders)
    found = {}
    for name, model in models.items():
        again = Case(folders[name] / "saved", case.work / "again", case.native)
        found[name] = [
            *(one.get(name, one) for one in together),
            {
                "state": _state(model),
                "logits": logits(model, case.ids[1]),
                "gradients": _gradients(model, case.ids[1]),
            },
            _steps({"loaded": lambda again=again: _state(again.load())}),
        ]
    return found


def _in_processes(case: Case, folders: dict[str, Path]) -> list[Found]:
    """Load folders in processes that share the models, and return what each found out, by folder."""
    import torch.distributed.tensor.parallel  # once, not in each process

    # A fork has all that it needs imported; elsewhere than on Linux it may not be safe.
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    given = folders, case.work, case.native, case.ids[1]
    started = [context.Process(target=_process, args=(rank, *given)) for rank in range(_PROCESSES)]
    with patch.dict(os.environ, TOKENIZERS_PARALLELISM="false"):  # or else a fork is told of it
        for process in started:
            process.start()
    for process in started:
        process.join(_SECONDS)
        process.kill()
    results = [case.work / f"{rank}.pt" for rank in range(_PROCESSES)]
    return [torch.load(path) if path.exists() else {"logits": "a process came to no end"} for path in results]


def _process(rank: int, folders: dict[str, Path], work: Path, native: bool, ids: torch.Tensor) -> None:
    """What one of the processes does."""
    warnings.simplefilter("ignore")
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{_PROCESSES}"}
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{work / 'meeting'}",
        rank=rank,
        world_size=_PROCESSES,
        timeout=timedelta(seconds=_SECONDS / 2),
    )
    found = {name: _of_one(Case(folder, work / "work", native), ids) for name, folder in folders.items()}
    torch.save(found, work / f"{rank}.pt")
    os._exit(0)  # at once: what a fork inherited is not its own to clear up


def _of_one(case: Case, ids: torch.Tensor) -> Found:
    model: Any = None

    def load() -> dict[str, tuple[int, ...]]:
        nonlocal model
        check_processes(read_config(case.folder), _PROCESSES)
        model = case.load(tp_plan="auto")
        return {name: tuple(_local(parameter).shape) for name, parameter in model.named_parameters()}

    return _steps(
        {
            "shapes": load,
            "logits": lambda: _local(logits(model, ids)),
            "gradients": lambda: _gradients(model, ids),
            "saved": lambda: model.save_pretrained(case.folder / "saved"),
        }
    )


def _steps(steps: dict[str, Callable[[], Any]]) -> Found:
    """Take steps and return what each gives; an error as the last line of what Python would print."""
    found: Found = {}
    for name, step in steps.items():
        try:
            found[name] = step()
        except Exception as error:
            found[name] = traceback.format_exception_only(error)[-1].strip()
    return found


def _local(tensor: Any) -> torch.Tensor:
    """Return what of a tensor this process holds."""
    return (tensor.to_local() if hasattr(tensor, "to_local") else tensor).detach()


def _state(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _gradients(model: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what this process holds of the gradients of a step; 4.5x calls the bias of a row projection `_bias`."""
    model.train()
    model(ids, labels=ids, use_cache=False).loss.backward()
    return {
        name.replace("._bias", ".bias"): _local(parameter.grad)
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def _asked(case: Case, shape: str, step: str) -> list[Any]:
    """Return what both processes found in a step, and what one process alone did."""
    values = [found.get(step) for found in _shared(case)[shape][: _PROCESSES + 1]]
    for value in values[:_PROCESSES]:
        expect(value is not None and not isinstance(value, str), f"{shape}: {value}")
    return values


def _expect_logits(case: Case, shape: str) -> None:
    *shared, alone = _asked(case, shape, "logits")
    for rank, found in enumerate(shared):
        expect_close(found, alone, f"logits in process {rank}")


@feature("tp_plan auto: the logits of one process")
def tied(case: Case) -> None:
    _expect_logits(case, _TIED)


@feature("tp_plan auto, untied, grouped heads: the logits of one process")
def untied(case: Case) -> None:
    _expect_logits(case, _UNTIED)


@feature("tp_plan auto: each process holds its part of every projection")
def parts(case: Case) -> None:
    for shape in (_TIED, _UNTIED):
        _asked(case, shape, "logits")
        *shared, _ = _asked(case, shape, "shapes")
        whole = {name: tensor for name, tensor in _shared(case)[shape][-2]["state"].items() if "_proj.weight" in name}
        expect(whole, "the model has no projections")
        for name, tensor in whole.items():
            held = [found[name][0] * found[name][1] for found in shared]
            expect_equal(held, [tensor.numel() // _PROCESSES] * _PROCESSES, f"{shape}: numbers held of {name}")


def _expect_gradients(case: Case, norms: bool) -> None:
    for shape in (_TIED, _UNTIED):
        *shared, alone = _asked(case, shape, "gradients")
        names = [name for name in alone if ("self_attn" in name and "norm" in name) == norms]
        expect(names, "the model has no such weights")
        for name in names:
            held = [found[name] for found in shared if name in found]
            expect(len(held) == _PROCESSES, f"{shape}: {name} has no gradient in a process")
            split = [
                at for at, sizes in enumerate(zip(held[0].shape, alone[name].shape, strict=True)) if len({*sizes}) > 1
            ]
            whole = [torch.cat(held, split[0])] if split else held
            for found in whole:
                expect_close(
                    found, alone[name], f"{shape}: gradient of {name}", 1e-4 * alone[name].abs().max().item()
                )


@feature("tp_plan auto: a training step's gradients are those of one process")
def gradients(case: Case) -> None:
    _expect_gradients(case, norms=False)


@feature("tp_plan auto: so are those of the norms of queries and keys")
def norms(case: Case) -> None:
    _expect_gradients(case, norms=True)


@feature("tp_plan auto: saved, and loaded by one process")
def saved(case: Case) -> None:
    for shape in (_TIED, _UNTIED):
        steps = _shared(case)[shape]
        for found in steps[:_PROCESSES]:
            expect(found.get("saved", "") is None, f"{shape}: {found.get('saved') or found.get('shapes')}")
        loaded = steps[-1]["loaded"]
        expect(not isinstance(loaded, str), f"{shape}: {loaded}")
        for name, tensor in steps[-2]["state"].items():
            expect_equal(loaded[name], tensor, f"{shape}: {name}")
