"""The command line itself: every command explains itself, and the doctor says what is missing."""

import shlex
import shutil

import click
import pytest
from click.testing import CliRunner

from opensci_lib import kernels
from opensci_lib.cli import main
from tests.stand_in import StandIn


def commands(group=main, name="opensci"):
    """Yield (what is typed, command) of every command."""
    for word, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


@pytest.mark.parametrize(("typed", "command"), [*commands()])
def test_every_help_ends_with_an_example_that_parses(typed, command):
    shown = CliRunner().invoke(main, [*typed.split()[1:], "--help"])
    assert shown.exit_code == 0
    example = command.epilog.removeprefix("Example: ")
    assert example.startswith(typed)
    words = shlex.split(example.removeprefix(typed))
    command.make_context(typed, words)  # an unknown option, or a wrong value, raises


def diagnosed():
    result = CliRunner().invoke(main, ["doctor"])
    return result.exit_code, dict(line.split(maxsplit=1) for line in result.output.splitlines()), result.output


def test_the_doctor_counts_kernels_and_names_the_command_that_builds_one(tmp_path, monkeypatch):
    stand_in = StandIn(tmp_path, monkeypatch)
    for release in ("4.48.0", "5.10.4", "5.9.0"):
        stand_in.add(release, "")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, found, output = diagnosed()
    assert (code, found["kernels"]) == (0, "0 of 3 locked releases are built")
    assert "→ opensci kernels build 5.10.4" in output
    kernels.build("5.9.0")
    code, found, output = diagnosed()
    assert (code, found["kernels"]) == (0, "1 of 3 locked releases are built: 5.9.0")
    assert "kernels build" not in output


def test_the_doctor_misses_uv(tmp_path, monkeypatch):
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("uv") is None
    code, found, output = diagnosed()
    assert (code, found["uv"]) == (1, "not found; it builds the kernel environments")
    assert "→ pip install uv" in output


SCORED = ["evaluate", "--model_path", "folder", "--tf_version", "5.2.0"]


def test_an_evaluation_runs_where_its_engine_is(tmp_path, monkeypatch, capfd):
    stand_in = StandIn(tmp_path, monkeypatch)
    stand_in.add("5.2.0", 'echo "hf: $*"; exit 3')
    stand_in.add("5.2.0", 'echo "vllm $VLLM_NO_USAGE_STATS: $*"', engine="vllm")
    options = ["--tasks", "a,b.yaml", "--limit", "3", "--output_dir", "out", "--json"]
    assert CliRunner().invoke(main, [*SCORED, *options]).exit_code == 3
    assert (tmp_path / "environments/transformers-5.2.0/evaluation.json").exists()
    assert CliRunner().invoke(main, [*SCORED, "--backend", "vllm", "--tensor_parallel_size", "2"]).exit_code == 0
    asked = [line for line in capfd.readouterr().out.splitlines() if "evaluate" in line]
    shared = "-m opensci_lib evaluate --model_path folder"
    rest = "--batch_size 8 --dtype auto --device auto --too_long refuse"
    assert asked == [
        f"hf: {shared} --tasks a,b.yaml --output_dir out --limit 3 {rest} --backend hf --json",
        f"vllm 1: {shared} --backend vllm --tensor_parallel_size 2 {rest}",
    ]


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--backend", "vllm"], 1, "vLLM has no lock file with transformers 5.2.0: take 5.19.0, or try"),
        (["--backend", "sglang"], 2, "'sglang' is not one of 'hf', 'vllm'."),
        (["--tensor_parallel_size", "0"], 2, "0 is not in the range x>=1."),
    ],
)
def test_an_evaluation_that_nothing_can_run_is_refused(tmp_path, monkeypatch, options, code, sentence):
    stand_in = StandIn(tmp_path, monkeypatch)
    stand_in.add("5.2.0", "")
    stand_in.add("5.19.0", "")
    stand_in.add("5.19.0", "", engine="vllm")
    result = CliRunner().invoke(main, [*SCORED, *options])
    assert (result.exit_code, stand_in.calls) == (code, [])
    assert sentence in result.output
