"""Lock files, environments and kernels."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from opensci_lib import kernels, project
from opensci_lib.errors import OpensciError

DEFAULTS = ["4.48.0", "4.49.0", "4.57.6", "5.0.0", "5.2.0", "5.23.0"]
LOCKS = sorted(project.ENVIRONMENTS.glob("*.txt"))

# Stands in for uv: notes its arguments and find-links, makes the interpreter it is asked for, or fails.
FAKE_UV = f"""#!{sys.executable}
import os, pathlib, sys
with open(os.environ["FAKE_LOG"], "a") as log:
    print(os.environ.get("UV_FIND_LINKS"), os.environ.get("VIRTUAL_ENV"), *sys.argv[1:], file=log)
if sys.argv[1] == "venv":
    python = pathlib.Path(sys.argv[-1], "bin", "python")
    python.parent.mkdir(parents=True)
    python.touch()
elif "FAKE_FAILURE" in os.environ:
    sys.exit(os.environ["FAKE_FAILURE"])
elif "compile" in sys.argv:
    print("torch==2.13.0+cpu")
"""


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A project of its own with one lock file, and an environment of its own to register kernels in."""
    monkeypatch.setattr(project, "ENVIRONMENTS", tmp_path / "environments")
    monkeypatch.setattr(project, "driver_prefix", lambda: tmp_path / "driver")
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
    return lambda: log.read_text().splitlines()


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
    assert {"accelerate", "ipykernel", "numpy", "safetensors", "libcst"} < {pin.split("==")[0] for pin in pins}


def test_every_minor_series_and_every_default_has_a_lock():
    assert set(DEFAULTS) < set(kernels.available())
    series = {tuple(map(int, version.split(".")[:2])) for version in kernels.available()}
    assert series == {(4, minor) for minor in range(48, 58)} | {(5, minor) for minor in range(24)}


def test_releases_are_sorted_as_numbers(places):
    for version in ("5.10.4", "5.9.0", "4.57.6"):
        (places / "environments" / f"transformers-{version}.txt").touch()
    assert kernels.available() == ["4.57.6", "5.2.0", "5.9.0", "5.10.4"]


def test_a_second_build_calls_uv_no_more(uv_calls):
    first = kernels.build("5.2.0")
    calls = uv_calls()
    assert kernels.build("5.2.0") == kernels.python("5.2.0") == first
    assert first.exists()
    assert uv_calls() == calls
    assert kernels.installed() == ["5.2.0"]


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
    spec = places / "driver/share/jupyter/kernels/transformers-5.2.0/kernel.json"
    written = json.loads(spec.read_text())
    assert written["argv"] == [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    assert written["display_name"] == "transformers 5.2.0"
    spec.unlink()
    kernels.build("5.2.0")
    assert json.loads(spec.read_text()) == written


def test_remove_leaves_the_lock(uv_calls, places):
    kernels.build("5.2.0")
    kernels.remove("5.2.0")
    assert kernels.installed() == []
    assert kernels.available() == ["5.2.0"]
    assert not (places / "driver/share/jupyter/kernels/transformers-5.2.0").exists()
    with pytest.raises(OpensciError, match="no environment"):
        kernels.remove("5.2.0")


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        ("error: Failed to fetch\n  Caused by: connection\n    refused\nhint: try again", "connection refused$"),
        (
            "  \u00d7 No solution found:\n  ╰─▶ Because of a\n      and b, no.\n\n      hint: c",
            "Because of a and b, no.$",
        ),
        ("error: failed to copy\n  Caused by: No space left on device (os error 28)", "no space is left on the disk"),
        ("", "no reason"),
    ],
)
def test_a_failed_build_leaves_nothing_and_says_why(uv_calls, places, monkeypatch, failure, sentence):
    monkeypatch.setenv("FAKE_FAILURE", failure or "\n")
    with pytest.raises(OpensciError, match=sentence) as caught:
        kernels.build("5.2.0")
    assert "\n" not in str(caught.value)
    assert not (places / "driver").exists()
    left = {path.name for path in (places / "environments").iterdir()}
    assert left <= {"transformers-5.2.0.txt", ".transformers-5.2.0.lock"}


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
    assert any("transformers==5.1.0" in call for call in uv_calls())


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
    assert {call.split()[0] for call in uv_calls()} == {"/one,/two"}


def test_uvs_own_variable_wins(uv_calls, pip_settings, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "/pip")
    monkeypatch.setenv("UV_FIND_LINKS", "/uv")
    kernels.build("5.2.0")
    assert {call.split()[0] for call in uv_calls()} == {"/uv"}


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
    assert kernels.find_links() == links


def test_pips_user_file_counts_without_a_named_one(pip_settings, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_CONFIG_FILE")
    user = tmp_path / ".config" / "pip" / "pip.conf"
    user.parent.mkdir(parents=True)
    user.write_text("[install]\nfind-links = /user\n")
    assert kernels.find_links() == ["/user"]


def test_no_other_environment_reaches_uv(uv_calls, monkeypatch):
    monkeypatch.setenv("VIRTUAL_ENV", "/elsewhere")
    kernels.build("5.2.0")
    assert {call.split()[1] for call in uv_calls()} == {"None"}


_BUILD = """
import sys
from pathlib import Path
from opensci_lib import kernels, project
place = Path(sys.argv[1])
project.ENVIRONMENTS = place / "environments"
project.driver_prefix = lambda: place / "driver"
print(kernels.build("5.2.0"))
"""


def test_two_processes_build_once(uv_calls, places):
    command = [sys.executable, "-c", _BUILD, str(places)]
    builders = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = {builder.communicate()[0].strip() for builder in builders}
    assert printed == {str(places / "environments/transformers-5.2.0/bin/python")}
    assert sum(" venv " in call for call in uv_calls()) == 1


@pytest.mark.kernel
def test_the_environment_holds_its_release_and_this_library():
    code = "import importlib.metadata as m, opensci_lib; print(m.version('transformers'), opensci_lib.__file__)"
    done = subprocess.run([kernels.python("5.2.0"), "-c", code], capture_output=True, text=True, check=True)
    version, file = done.stdout.split()
    assert version == "5.2.0"
    assert Path(file) == project.ROOT / "opensci_lib" / "__init__.py"
