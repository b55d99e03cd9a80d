"""A SLURM cluster of one node on this machine's loopback, for as long as a block runs.

Debian's packages slurm-wlm and munge have all that it needs. Its daemons, keys, ports and state are its own, so a
cluster that this machine may belong to is left alone.
"""

import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")
_SEARCH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
_CONFIGURATION = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """A running cluster: `environment` is what its commands, and whatever calls them, need."""

    def __init__(self, environment: dict[str, str]):
        self.environment = environment

    def command(self, *words: str) -> str:
        """Run one of SLURM's commands and return what it printed."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=True)
        return done.stdout

    def jobs(self) -> dict[str, tuple[str, str]]:
        """Return {job: (state, comment)} of all jobs since the start; Snakemake's comments name the rule."""
        lines = self.command("squeue", "--states=all", "--noheader", "--format=%i|%T|%k").splitlines()
        return {number: (state, comment) for number, state, comment in (line.split("|", 2) for line in lines)}

    def wait_for(self, state: str, comment: str, seconds: float = 120) -> str:
        """Return the number of the first job in a state whose comment matches, as soon as there is one."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for number, (current, said) in self.jobs().items():
                if current == state and re.search(comment, said):
                    return number
            time.sleep(0.2)
        raise TimeoutError(f"no job {comment!r} was {state} within {seconds} s: {self.jobs()}")


def missing_programs() -> list[str]:
    """Return which of the programs that a cluster needs are not installed."""
    return [program for program in PROGRAMS if shutil.which(program, path=_SEARCH) is None]


@contextmanager
def cluster() -> Generator[Cluster]:
    """Start munge, the controller and the node's daemon; stop them, and all jobs, at the end."""
    if missing := missing_programs():
        raise RuntimeError(f"{', '.join(missing)} not found: install Debian's slurm-wlm and munge.")
    with ExitStack() as stack:
        # Sockets have short names: pytest's own temporary folders can be too deep.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        folder.chmod(0o755)
        for name in ("munge", "state", "spool", "bin"):
            (folder / name).mkdir()
        environment = {**os.environ, "PATH": f"{folder}/bin:{_SEARCH}", "SLURM_CONF": f"{folder}/slurm.conf"}
        (folder / "slurm.conf").write_text(_configuration(folder))
        # Snakemake takes SLURM's variables out of a job's environment before it calls srun, this one among them.
        srun = folder / "bin" / "srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)
        key = folder / "munge" / "key-file"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        for words in (
            ["munged", "--foreground", *(f"--{name}={folder}/munge/{name}" for name in _MUNGE_FILES)],
            ["slurmctld", "-D"],
            ["slurmd", "-D"],
        ):
            log = stack.enter_context((folder / f"{words[0]}.log").open("w"))
            daemon = subprocess.Popen(words, env=environment, stdout=log, stderr=subprocess.STDOUT)
            stack.callback(_stop, daemon)
        running = Cluster(environment)
        _wait_until_idle(running, folder)
        stack.callback(running.command, "scancel", "--full", "--state=RUNNING", "--user", _user())
        yield running


_MUNGE_FILES = ("key-file", "socket", "pid-file", "log-file", "seed-file")


def _configuration(folder: Path) -> str:
    return _CONFIGURATION.format(
        host=socket.gethostname().partition(".")[0],
        folder=folder,
        user=_user(),
        controller_port=_free_port(),
        node_port=_free_port(),
        cpus=os.cpu_count(),
        memory=psutil.virtual_memory().total >> 20,
    )


def _user() -> str:
    return psutil.Process().username()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_idle(running: Cluster, folder: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done = subprocess.run(
            ["sinfo", "--noheader", "--format=%T"],
            env=running.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.stdout.strip() == "idle":
            return
        time.sleep(0.2)
    logs = "\n".join(f"{log.name}: {log.read_text()[-500:]}" for log in sorted(folder.glob("*.log")))
    raise TimeoutError(f"the cluster did not start within {seconds} s: {done.stdout}{done.stderr}\n{logs}")


def _stop(daemon: subprocess.Popen) -> None:
    daemon.terminate()
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
