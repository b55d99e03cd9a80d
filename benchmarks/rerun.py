"""What does the pipeline do when it is finished, and what when one release is added?

    uv run python benchmarks/rerun.py

The default pipeline runs in a fresh copy of this checkout. Then
`uv run snakemake` has nothing left to do, and is timed. Then a release is added to `tf_versions`, and the jobs that
snakemake runs are listed: those of the release itself, and those that concern all releases together.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict

import click
from checkout import default_releases, fresh_checkout, pipeline_arguments
from record import at_most, save, spread
from tqdm import tqdm

ADDED = "5.22.2"


@click.command()
@click.option("--repetitions", default=5, show_default=True, help="How often the finished pipeline runs again.")
@click.option("--releases", help="With commas; default: those of config.yaml.")
def main(repetitions: int, releases: str | None) -> None:
    """Run, run again, add a release, print and save."""
    chosen = releases.split(",") if releases else default_releases()
    with fresh_checkout() as checkout:
        everything = pipeline_arguments(chosen, compat=True)
        first = checkout.snakemake(*everything)
        again = [checkout.snakemake(*everything) for _ in tqdm(range(repetitions), "again")]
        added = checkout.snakemake(*pipeline_arguments([*chosen, ADDED], compat=True))
    others = [job for job in added.jobs if job.release not in (ADDED, None)]
    runs = {"first": [first], "again": again, f"{ADDED} added": [added]}
    save(
        "rerun",
        [
            {"run": name, **spread(run.seconds for run in same), "jobs": len(same[0].jobs)}
            for name, same in runs.items()
        ],
        [
            at_most(5, "a finished pipeline again, seconds", statistics.median(run.seconds for run in again)),
            at_most(0, "jobs of a finished pipeline", max(len(run.jobs) for run in again)),
            at_most(0, f"jobs of other releases when {ADDED} is added", len(others)),
        ],
        repetitions,
        packages=["snakemake"],
        releases=chosen,
        jobs_added=[asdict(job) for job in added.jobs],
    )


if __name__ == "__main__":
    main()
