"""Does the fixed folder run beyond one process, and in vLLM, wherever a native model does?

    uv run python benchmarks/serving.py

Runs a model folder as published, patched as text until it loads (the variant `minimal`), fixed, and, as the
yardstick, a native model (Qwen3) with its weights, less biases, in each of these ways:

- by one process of vLLM: the texts that transformers generates, and the log-probabilities of the prompts' tokens
- scored by lm-evaluation-harness through vLLM and through transformers
- by two processes of vLLM, each of which holds a part of each layer, or some of the layers
- by two processes of transformers (`tp_plan="auto"`), on the oldest release and on vLLM's

The table goes to `docs/serving.md`, between its markers, with versions and date.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import click
from checkout import scratch
from record import at_least, save
from tqdm import tqdm

from opensci_lib import kernels, project
from opensci_lib.download import MINIATURE, download
from opensci_lib.hotfix import hotfix
from opensci_lib.kernels import vllm
from opensci_lib.runs import REFERENCE_RELEASE, VARIANTS
from opensci_lib.scratch import scratch as for_a_while

WORKER = Path(__file__).with_name("serving_run.py")
PAGE = project.ROOT / "docs" / "serving.md"
START, END = "<!-- the table of benchmarks/serving.py -->\n", "<!-- its end -->"
COLUMNS = {
    "published": "published folder",
    "minimal": "public text patch",
    "fixed": "fixed folder",
    "native": "native Qwen3",
}
#: Nats, or logits: what other kernels may change.
CLOSE = 1e-4
#: What a worker found of a step, or None, and the error that it said.
Found = tuple[dict[str, Any] | None, str]


def run(
    python: Path, *arguments: object, processes: int = 1, seconds: float = 600, worker: Path = WORKER
) -> tuple[Any, str]:
    """Run a worker; return what it printed as JSON, None where that is nothing, and the first error in its log."""
    ours = {**vllm.environment(), **vllm.share_processors(processes), "HF_HUB_OFFLINE": "1"}
    with for_a_while("/tmp") as modules:
        process = subprocess.Popen(
            [python, worker, *map(str, arguments)],
            env={**os.environ, **kernels.ENVIRONMENT, **ours, "HF_MODULES_CACHE": str(modules)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that what it started ends with it
        )
        try:
            said, log = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            said, log = "", f"Error: no end in {seconds:g} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    lines = [line for line in said.splitlines() if line.startswith(('{"', '[{"'))]
    # What a process of vLLM's own died of stands in its log alone.
    causes = re.findall(r"^(?:\(.*?\) )?(?:ERROR .*?\] )?(\w*(?:Error|Exception): .+)$", log, re.MULTILINE)
    return json.loads(lines[-1]) if lines else None, causes[0] if causes else f"it ended: {log[-99:]}"


def step(told: tuple[Any, str], name: str) -> Found:
    """Return a step's value and the error instead of it; the first one is the cause of what follows."""
    found, log = told
    found = found or {"by": {}}
    said = found["by"].get(name) or next(iter(found["by"].values()), log)
    return found.get(name), log if "WorkerProc" in said or "Engine core" in said else said


def answers(found: Found) -> tuple[bool, str]:
    """Say whether texts and log-probabilities are those of transformers."""
    value, error = found
    if value is None:
        return False, failed(error)
    text = "the same text" if value["same text"] else "another text"
    good = value["same text"] and value["furthest"] < CLOSE
    return good, f"{text}, log-probabilities within {value['furthest']:.1g}"


def scores(found: Found) -> tuple[bool, str]:
    """Say whether the scores are those of transformers."""
    value, error = found
    if value is None:
        return False, failed(error)
    said = f"{value['changed']} of {value['items']} predictions changed"
    said += f", log-likelihoods within {value['furthest']:.1g}"
    return value["changed"] == 0 and value["furthest"] < CLOSE, said


def shares(found: Found) -> tuple[bool, str]:
    """Say whether logits are those of one process, and what each of two holds."""
    value, error = found
    if value is None:
        return False, failed(error)
    share = value["share"]
    held = "the whole model, silently" if share > 0.99 else f"{share:.0%} of the projections"
    return share < 0.6 and value["furthest"] < CLOSE, f"logits within {value['furthest']:.1g}, each holds {held}"


def failed(error: str) -> str:
    """Write an error in a cell."""
    words = " ".join(error.replace("|", "/").split())
    if words.startswith("not tried"):
        return words
    return f"fails: `{words[:100].replace('`', '')}`"


def make(source: str, folder: Path, python: Path) -> dict[str, Path]:
    """Write the four model folders."""
    published = Path(download(source).path)
    found = {"published": published, "minimal": folder / "minimal", "fixed": folder / "fixed"}
    hotfix(published, found["minimal"], rules=VARIANTS["minimal"])
    hotfix(published, found["fixed"])
    made, log = run(python, "native", found["fixed"], folder / "native")
    if made is None:
        raise RuntimeError(f"There is no native model with the weights of {source}: {log}")
    return {**found, "native": folder / "native"}


@click.command()
@click.option("--model", default=MINIATURE, show_default=True, help="A Hub id, a local folder, or the miniature.")
@click.option("--limit", default=20, show_default=True, help="Items of each task that are scored; 0: all.")
@click.option("--write/--no-write", default=True, show_default=True, help=f"Whether {PAGE.name} gets the table.")
def main(model: str, limit: int, write: bool) -> None:
    """Run all ways, print, save and write the table."""
    release = kernels.available("vllm")[-1]
    engine = kernels.python(release, "vllm")
    cells: dict[str, dict[str, tuple[bool, str]]] = {}
    versions: dict[str, str] = {}

    def put(row: str, column: str, say: Callable[[Found], tuple[bool, str]], found: Found) -> None:
        cells.setdefault(row, {})[column] = say(found)
        tqdm.write(f"{column}; {row}: {cells[row][column][1]}")

    with scratch() as folder:
        for column, path in tqdm(make(model, folder, engine).items(), "folders"):
            work = folder / f"of-{column}"
            work.mkdir()
            one = run(engine, "alone", path, work, limit)
            versions |= (one[0] or {}).get("versions", {})
            put("vLLM, one process (nats)", column, answers, step(one, "answers"))
            put("lm-eval, `vllm` against `hf` (nats)", column, scores, step(one, "scores"))
            for way in ("tensor_parallel_size", "pipeline_parallel_size"):
                if (one[0] or {}).get("answers"):
                    two = run(engine, "together", path, work, way, processes=2, seconds=300)
                else:
                    two = None, "not tried, as one process fails"
                put(f"vLLM, `{way}=2`", column, answers, step(two, way))
            for of in (REFERENCE_RELEASE, release):
                meeting = work / of
                meeting.mkdir()
                two = run(kernels.python(of), "shared", path, meeting, processes=2, seconds=300)
                put(f'`tp_plan="auto"`, two processes, transformers {of}', column, shares, step(two, "tp_plan"))
    rows = [{"way": row, **{column: said for column, (_, said) in of.items()}} for row, of in cells.items()]
    alike = sum(of["fixed"][0] >= of["native"][0] for of in cells.values())
    save(
        "serving",
        rows,
        [at_least(len(cells), "ways in which the fixed folder does what a native model does", alike)],
        repetitions=1,
        works={row: {column: good for column, (good, _) in of.items()} for row, of in cells.items()},
        ran=versions,
    )
    if write:
        text = PAGE.read_text(encoding="utf-8")
        before, _, rest = text.partition(START)
        _, _, after = rest.partition(END)
        PAGE.write_text(f"{before}{START}{page(cells, versions)}{END}{after}", encoding="utf-8")


def page(cells: dict[str, dict[str, tuple[bool, str]]], versions: dict[str, str]) -> str:
    """Return the table as Markdown, with what it was made by."""
    head = f"| | {' | '.join(COLUMNS.values())} |\n|---|{'---|' * len(COLUMNS)}\n"
    body = "".join(f"| {row} | {' | '.join(of[name][1] for name in COLUMNS)} |\n" for row, of in cells.items())
    ran = ", ".join(f"{name} {said}" for name, said in versions.items())
    return f"\n{head}{body}\n{date.today()}, float32, two processors; {ran}.\n\n"


if __name__ == "__main__":
    main()
