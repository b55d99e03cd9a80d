"""Is the pipeline quicker than running each release and variant by hand, one after the other?

    uv run python benchmarks/pipeline.py

The pipeline, in a fresh copy of this checkout, builds its environments, hotfixes, runs and compares all default
releases: `snakemake outputs/miniature/summary.html --config compat=false`. The plain way is, for each of the same
releases and variants in turn,

    uv run --no-project --with torch==2.13.0 --with transformers==V python plain_inference.py FOLDER …

with the same prompts and 16 new tokens. Both start with uv's cache of packages warm and no environment made; the
plain way is then run again with the environments that uv has kept, and the pipeline without its results but with its
environments. The plain way is handed the
three variants ready made; the pipeline's time holds its hotfixes, comparison and report. The whole default target and
the tests have no plain counterpart. Each is run in a fresh copy of its own, and compared with what it took at b05a223
on two cores of the same kind.
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from checkout import (
    SUMMARY,
    UV,
    call,
    default_releases,
    fresh_checkout,
    pipeline_arguments,
    scratch,
)
from record import at_most, rounded, save, seconds, spread
from tqdm import tqdm

from opensci_lib import runs
from opensci_lib.hotfix import hotfix
from opensci_lib.kernels import PYTHON
from opensci_lib.miniature import MODEL, PROMPTS
from opensci_lib.runs import VARIANTS

SCRIPT = Path(__file__).with_name("plain_inference.py")
TORCH = "2.13.0"
PIPELINE, PLAIN = "pipeline to the summary", "plain way"
KEPT = ", environments kept"
GOALS = {"": 0.6, KEPT: 0.8}
# Seconds at b05a223, and what part of them is the goal.
WHOLE, TESTS = "whole default target", "uv run pytest"
BEFORE = {WHOLE: (592, 0.35), TESTS: (645, 0.5)}


@contextmanager
def cache_without_environments(folder: Path) -> Iterator[dict[str, str]]:
    """Give uv the user's cache of packages, but none of the environments that it keeps there for `uv run --with`."""
    folder.mkdir()
    user = Path(call(UV, "cache", "dir").strip())
    for part in user.iterdir():
        if part.is_dir() and not part.name.startswith("environments-"):
            (folder / part.name).symlink_to(part)
    try:
        yield {"UV_CACHE_DIR": str(folder), "HF_MODULES_CACHE": str(folder / "modules")}
    finally:
        for environment in folder.glob("environments-*/*/*"):  # a link to where packages are unpacked
            if environment.is_symlink():
                shutil.rmtree(environment.resolve())
        shutil.rmtree(folder)


def by_hand(release: str, *command: object, variables: dict[str, str]) -> None:
    """Run a command under a release the plain way."""
    packages = [f"--with=torch=={TORCH}", f"--with=transformers=={release}"]
    call(UV, "run", "--no-project", f"--python={PYTHON}", *packages, "python", *command, **variables)


def plain_way(folder: Path, releases: list[str], variables: dict[str, str]) -> None:
    """Run each release and variant, one after the other."""
    for release, variant in tqdm([run.split("/") for run in runs.names(releases)], "plain way", leave=False):
        results = folder / f"{release}-{variant}.pt"
        by_hand(release, SCRIPT, folder / variant, folder / "prompts.json", results, variables=variables)


def prepare(folder: Path, releases: list[str]) -> None:
    """Make what the plain way is handed, and bring all its packages into uv's cache."""
    shutil.copytree(MODEL, folder / "original")
    for variant in ("minimal", "fixed"):
        hotfix(MODEL, folder / variant, rules=VARIANTS[variant])
    (folder / "prompts.json").write_text(json.dumps(PROMPTS))
    with cache_without_environments(folder / "cache") as variables:
        for release in tqdm(releases, "packages of the plain way"):
            by_hand(release, "-c", "pass", variables=variables)


@click.command()
@click.option("--turns", default=3, show_default=True, help="How often each way is measured.")
@click.option("--releases", help="With commas; default: those of config.yaml.")
@click.option("--tests/--no-tests", default=True, help="Whether `uv run pytest` is timed as well, once.")
def main(turns: int, releases: str | None, tests: bool) -> None:
    """Measure all ways in turn, print and save."""
    chosen = releases.split(",") if releases else default_releases()
    to_the_summary = [SUMMARY, *pipeline_arguments(chosen)]
    times: dict[str, list[float]] = defaultdict(list)
    with scratch() as folder:
        prepare(folder, chosen)
        for _ in tqdm(range(turns), "turns"):
            with fresh_checkout() as checkout:
                run = checkout.snakemake(*to_the_summary)
                times[PIPELINE].append(run.seconds)
                shutil.rmtree(checkout.folder / "outputs")
                times[PIPELINE + KEPT].append(checkout.snakemake(*to_the_summary).seconds)
            with cache_without_environments(folder / "cache") as variables:
                for state in GOALS:
                    times[PLAIN + state].append(seconds(plain_way, folder, chosen, variables))
            with fresh_checkout() as checkout:
                whole = checkout.snakemake(*pipeline_arguments(chosen, compat=True))
                times[WHOLE].append(whole.seconds)
    if tests:
        with fresh_checkout() as checkout:
            times[TESTS].append(seconds(checkout.run, "pytest", "-q"))
    before = {way: was for way, was in BEFORE.items() if way in times}
    ratios = {
        f"{PIPELINE}{state} / the plain way": [
            ours / plain for ours, plain in zip(times[PIPELINE + state], times[PLAIN + state], strict=True)
        ]
        for state in GOALS
    }
    ratios |= {f"{way} / {was} s": [value / was for value in times[way]] for way, (was, _) in before.items()}
    goals = [*GOALS.values(), *(goal for _, goal in before.values())]
    save(
        "pipeline",
        [{"way": way, **spread(values), "times": len(values)} for way, values in times.items()],
        [
            at_most(goal, what, statistics.median(values))
            for goal, (what, values) in zip(goals, ratios.items(), strict=True)
        ],
        repetitions=turns,
        packages=["snakemake", "papermill"],
        releases=chosen,
        seconds_by_rule={PIPELINE: run.seconds_by_rule, WHOLE: whole.seconds_by_rule},
        ratios={what: [rounded(value) for value in values] for what, values in ratios.items()},
    )


if __name__ == "__main__":
    main()
