"""Does the pipeline's time grow in a straight line with the number of releases?

    uv run python benchmarks/growth.py

`snakemake outputs/miniature/summary.html --config compat=false` with 1, 6 and 12 releases, each in a fresh copy of
this checkout, with uv's cache of packages warm. 6 are the default ones.
What each took stands beside what the straight line of least squares says.
"""

from __future__ import annotations

import statistics
from collections import defaultdict

import click
import numpy as np
from checkout import SUMMARY, default_releases, fresh_checkout, pipeline_arguments
from record import at_most, rounded, save, spread
from tqdm import tqdm

# The default ones, then others. 4.48.0, the reference, always runs.
RELEASES = [*default_releases(), "4.51.3", "4.54.1", "5.5.4", "5.10.4", "5.15.1", "5.20.2"]
COUNTS = [1, 6, 12]


@click.command()
@click.option("--turns", default=1, show_default=True, help="How often each number of releases is run.")
@click.option("--counts", default=COUNTS, multiple=True, show_default=True, help="Numbers of releases.")
def main(turns: int, counts: tuple[int, ...]) -> None:
    """Measure the numbers of releases in turn, print and save."""
    times: dict[int, list[float]] = defaultdict(list)
    jobs = {}
    for count in tqdm(list(counts) * turns, "pipelines"):
        with fresh_checkout() as checkout:
            run = checkout.snakemake(SUMMARY, *pipeline_arguments(RELEASES[:count]))
        times[count].append(run.seconds)
        jobs[count] = len(run.jobs)
    measured = [statistics.median(times[count]) for count in counts]
    per_release, once = np.polyfit(counts, measured, 1)
    line = once + per_release * np.asarray(counts)
    rows = [
        {"releases": count, "jobs": jobs[count], **spread(times[count]), "on the line": rounded(on_line)}
        for count, on_line in zip(counts, line, strict=True)
    ]
    off = max(abs(np.asarray(measured) / line - 1))
    save(
        "growth",
        rows,
        [at_most(0.1, "furthest from the straight line", off)],
        repetitions=turns,
        packages=["snakemake", "papermill"],
        seconds_per_release=rounded(per_release),
        seconds_once=rounded(once),
        r_squared=rounded(1 - np.var(measured - line) / np.var(measured)),
    )


if __name__ == "__main__":
    main()
