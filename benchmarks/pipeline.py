"""Is the pipeline quicker than running each release and variant by hand, one after the other?

    uv run python benchmarks/pipeline.py

The pipeline, in a fresh copy of this checkout, builds its environments, hotfixes, runs and compares all default
releases: `snakemake outputs/miniature/summary.html --config compat=false`. The plain way is, for each of the same
releases and variants in turn,

    uv run --no-project --with torch==2.13.0 --with transformers==V python plain_inference.py FOLDER …

with the same prompts and 16 new tokens. Both start with uv's cache of packages warm and no environment made; the
plain way is then run again with the environments that uv has kept, and the pipeline without its results but with its
environments. The plain way is handed the
three variants ready made; the pipeline's time holds its hotfixes, comparison and report. What the default target
adds, the checks of features and the evaluation, has no plain counterpart: it is timed once, going on from a summary,
and the whole is given as the sum.
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
    miniature,
    pipeline_arguments,
    scratch,
)
from record import at_most, rounded, save, seconds, spread
from tqdm import tqdm

from opensci_lib import runs
from opensci_lib.hotfix import hotfix
from opensci_lib.kernels import PYTHON
from opensci_lib.miniature import PROMPTS
from opensci_lib.runs import VARIANTS

SCRIPT = Path(__file__).with_name("plain_inference.py")
TORCH = "2.13.0"
PIPELINE, PLAIN = "pipeline to the summary", "plain way"
KEPT = ", environments kept"


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


def prepare(folder: Path, releases: list[str]) -> Path:
    """Make what the plain way is handed, bring all its packages into uv's cache, and return the trained model."""
    with fresh_checkout() as checkout:
        model = miniature(checkout)
    shutil.copytree(model, folder / "original")
    for variant in ("minimal", "fixed"):
        hotfix(model, folder / variant, rules=VARIANTS[variant])
    (folder / "prompts.json").write_text(json.dumps(PROMPTS))
    with cache_without_environments(folder / "cache") as variables:
        for release in tqdm(releases, "packages of the plain way"):
            by_hand(release, "-c", "pass", variables=variables)
    return model


@click.command()
@click.option("--turns", default=2, show_default=True, help="How often each way is measured.")
@click.option("--releases", help="With commas; default: those of config.yaml.")
def main(turns: int, releases: str | None) -> None:
    """Measure both ways in turn, print and save."""
    chosen = releases.split(",") if releases else default_releases()
    times: dict[str, list[float]] = defaultdict(list)
    with scratch() as folder:
        model = prepare(folder, chosen)
        to_the_summary = [SUMMARY, *pipeline_arguments(model, chosen)]
        for turn in tqdm(range(turns), "turns"):
            with fresh_checkout() as checkout:
                run = checkout.snakemake(*to_the_summary)
                times[PIPELINE].append(run.seconds)
                if turn == turns - 1:
                    rest = checkout.snakemake(*pipeline_arguments(model, chosen, compat=True))
                    times["whole default target"].append(run.seconds + rest.seconds)
                shutil.rmtree(checkout.folder / "outputs")
                times[PIPELINE + KEPT].append(checkout.snakemake(*to_the_summary).seconds)
            with cache_without_environments(folder / "cache") as variables:
                for way in (PLAIN, PLAIN + KEPT):
                    times[way].append(seconds(plain_way, folder, chosen, variables))
    ratios = {
        PIPELINE + state: [a / b for a, b in zip(times[PIPELINE + state], times[PLAIN + state], strict=True)]
        for state in ("", KEPT)
    }
    save(
        "pipeline",
        [{"way": way, **spread(values), "times": len(values)} for way, values in times.items()],
        [at_most(0.6, f"{way} / the plain way", statistics.median(values)) for way, values in ratios.items()],
        repetitions=turns,
        packages=["snakemake", "papermill"],
        releases=chosen,
        seconds_by_rule={PIPELINE: run.seconds_by_rule, "what the default target adds": rest.seconds_by_rule},
        ratios={way: [rounded(value) for value in values] for way, values in ratios.items()},
    )


if __name__ == "__main__":
    main()
