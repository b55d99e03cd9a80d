"""The pipeline on a real SLURM cluster of one node, with a job that is killed on the way."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from opensci_lib import project
from tests.cluster import cluster

pytestmark = pytest.mark.slurm

# This cluster has two small cores, no accounts and no accounting database, and nobody to be spared from its queries.
HERE = [
    *("--set-threads", "infer=1", "--slurm-no-account", "--slurm-status-command", "squeue"),
    *("--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10"),
]


@pytest.fixture(scope="module")
def slurm():
    with cluster() as running:
        yield running


def snakemake(slurm, model, *words) -> subprocess.Popen:
    program = Path(sys.executable).with_name("snakemake")
    config = ["--config", f"models={model}", "tf_versions=[5.2.0]", "compat=false", "tasks=[]"]
    return subprocess.Popen(
        [program, *words, *config],
        cwd=project.ROOT,
        env=slurm.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, output
    return output


def on_the_cluster(model) -> list[str]:
    return [f"outputs/{model.name}/summary.html", "--workflow-profile", "profiles/slurm", *HERE]


def test_a_killed_job_is_run_again_and_nothing_else_is(slurm, model):
    finish(snakemake(slurm, model, "prepare"))
    assert slurm.jobs() == {}, "what needs a network runs on the login node"

    running = snakemake(slurm, model, *on_the_cluster(model))
    killed = slurm.wait_for("RUNNING", "rule_infer")
    slurm.command("scancel", killed)
    finish(running)

    jobs = slurm.jobs()
    assert jobs[killed][0] == "CANCELLED"
    assert all("rule_infer" in comment for _, comment in jobs.values())
    done = [comment for number, (state, comment) in jobs.items() if number != killed]
    assert [state for number, (state, _) in jobs.items() if number != killed] == ["COMPLETED"] * 2
    assert len(set(done)) == 2, "one job for each release"
    with (project.OUTPUTS / model.name / "parity.csv").open() as file:
        equal = {(row["tf_version"], row["variant"]): row["bitwise_equal"] for row in csv.DictReader(file)}
    assert equal == {
        ("4.48.0", "original"): "True",
        ("4.48.0", "fixed"): "True",
        ("5.2.0", "minimal"): "False",
        ("5.2.0", "fixed"): "True",
    }


def test_what_is_done_is_not_done_again(slurm, model):
    before = slurm.jobs()
    assert "Nothing to be done" in finish(snakemake(slurm, model, *on_the_cluster(model)))
    assert slurm.jobs() == before
