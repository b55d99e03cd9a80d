"""Is scoring all runs through the pipeline quicker than the harness's own command, run by run?

    uv run python benchmarks/evaluation.py

Both score all default runs on the same four tasks, with environments, layers and model folders made. The pipeline is
`snakemake` with the notebooks `evaluate.ipynb` of all releases as targets. The other way is, for each run in turn,

    lm_eval --model hf --model_args pretrained=FOLDER,trust_remote_code=True,dtype=float32 --tasks … --include_path …

with the same batch size and its samples logged. Where the published file does not import, which the pipeline cures
with the shim, the command is handed the minimal folder.
"""

from __future__ import annotations

import shutil
import statistics
from collections import defaultdict
from pathlib import Path

import click
from checkout import Checkout, call, default_releases, fresh_checkout, pipeline_arguments
from record import at_most, rounded, save, seconds, spread
from tqdm import tqdm

from opensci_lib import runs
from opensci_lib.evaluation.harness import OFFLINE, TASKS
from opensci_lib.kernels import marker
from opensci_lib.runs import VARIANTS

PIPELINE, COMMAND = "pipeline", "lm_eval, run by run"
#: The first release on which the published file does not import.
BROKEN = (4, 54)


def prepare(checkout: Checkout, releases: list[str]) -> None:
    """Build environments with their layer, and the model folders."""
    layers = [marker(release, "evaluation") for release in releases]
    folders = [f"outputs/miniature/{variant}.json" for variant in VARIANTS]
    checkout.snakemake(*layers, *folders)


def pipeline(checkout: Checkout, releases: list[str]) -> None:
    """Score all runs, a notebook a release."""
    for release in releases:
        shutil.rmtree(checkout.folder / "outputs/miniature" / release, ignore_errors=True)
    notebooks = [f"outputs/miniature/{release}/evaluate.ipynb" for release in releases]
    checkout.snakemake(*notebooks, *pipeline_arguments(releases))


def command(checkout: Checkout, releases: list[str]) -> None:
    """Score all runs, one command after the other."""
    for release, variant in tqdm([run.split("/") for run in runs.names(releases)], COMMAND, leave=False):
        loads = "minimal" if variant == "original" and runs.as_numbers(release) >= BROKEN else variant
        harness = checkout.folder / Path(marker(release)).parent / "bin" / "python"
        model = f"pretrained={checkout.folder / 'outputs/miniature' / loads},trust_remote_code=True,dtype=float32"
        call(
            *(harness, "-m", "lm_eval", "--model", "hf", "--model_args", model, "--tasks", ",".join(OFFLINE)),
            *("--include_path", TASKS, "--batch_size", "8", "--trust_remote_code"),
            *("--log_samples", "--output_path", checkout.folder / "outputs/harness"),
            cwd=TASKS,
        )


@click.command()
@click.option("--turns", default=3, show_default=True, help="How often each way is measured.")
@click.option("--releases", help="With commas; default: those of config.yaml.")
def main(turns: int, releases: str | None) -> None:
    """Measure both ways in turn, print and save."""
    chosen = releases.split(",") if releases else default_releases()
    times: dict[str, list[float]] = defaultdict(list)
    with fresh_checkout() as checkout:
        prepare(checkout, chosen)
        for _ in tqdm(range(turns), "turns"):
            for name, way in ((PIPELINE, pipeline), (COMMAND, command)):
                times[name].append(seconds(way, checkout, chosen))
    ratios = [ours / theirs for ours, theirs in zip(times[PIPELINE], times[COMMAND], strict=True)]
    save(
        "evaluation",
        [{"way": way, **spread(values)} for way, values in times.items()],
        [at_most(0.4, "pipeline / lm_eval", statistics.median(ratios))],
        repetitions=turns,
        packages=["snakemake", "papermill"],
        releases=chosen,
        ratios=[rounded(value) for value in ratios],
    )


if __name__ == "__main__":
    main()
