"""The library installed from a wheel, without a checkout: the wheel, and what its commands do in an empty folder."""

import os
import subprocess
import zipfile

import pytest

from opensci_lib import kernels, project

UV = os.environ.get("UV", "uv")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([UV, "build", "--quiet", "--wheel", "--out-dir", folder, project.ROOT], check=True)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def opensci(wheel, tmp_path_factory):
    """Return a function that runs `opensci` from the wheel, in an empty folder of a user with empty folders."""
    place = tmp_path_factory.mktemp("user")
    (place / "empty").mkdir()
    cache = subprocess.run([UV, "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    own = {"XDG_CACHE_HOME": str(place / "cache"), "JUPYTER_DATA_DIR": str(place / "jupyter"), "UV_CACHE_DIR": cache}

    def run(*words, succeeds=True):
        done = subprocess.run(
            [UV, "tool", "run", "--from", wheel, "opensci", *words],
            cwd=place / "empty",
            env={**os.environ, **own},
            capture_output=True,
            text=True,
        )
        assert (done.returncode == 0) == succeeds, done.stderr
        return done.stdout if succeeds else done.stderr

    run.place = place
    return run


def test_the_wheel_holds_every_lock_and_nothing_that_was_built_from_them(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    held = {name.removeprefix("opensci_lib/installed/") for name in names if "/installed/" in name}
    locks = {f"environments/{file.name}" for file in project.LOCKS.glob("*.txt")}
    assert len(locks) > 60
    assert held == {"pyproject.toml", *locks}
    assert not [name for name in names if name.startswith(("environments/", "tests/", "notebooks/", "benchmarks/"))]


@pytest.mark.kernel
def test_an_installed_copy_builds_runs_and_removes_an_environment_of_the_user(opensci):
    environment = opensci.place / "cache/opensci/environments/transformers-5.2.0"
    spec = opensci.place / "jupyter/kernels/transformers-5.2.0/kernel.json"
    assert opensci("kernels", "build", "5.2.0") == f"{environment}/bin/python\n"
    assert str(environment) in spec.read_text()
    listed = opensci("kernels", "list").splitlines()
    assert [line.split()[0] for line in listed] == kernels.available()
    assert [line for line in listed if "built" in line] == ["5.2.0 built"]

    opensci("hotfix", "--src_dir", "miniature")
    said = opensci("infer", "--model_path", "miniature_fixed", "--tf_version", "5.2.0", "--max_new_tokens", "2")
    assert said == "transformers 5.2.0\n Paris.\n"

    where = "import opensci_lib, importlib.metadata as m; print(opensci_lib.__file__, m.version('opensci-lib'))"
    done = subprocess.run([environment / "bin/python", "-I", "-c", where], capture_output=True, text=True, check=True)
    assert done.stdout == f"{environment}/lib/python3.11/site-packages/opensci_lib/__init__.py 0.1.0\n"

    opensci("kernels", "remove", "5.2.0")
    assert not environment.exists()
    assert not spec.exists()
    assert {path.name for path in (opensci.place / "empty").iterdir()} == {"miniature_fixed", ".miniature_fixed.lock"}


@pytest.mark.kernel
def test_an_installed_copy_resolves_a_release_without_a_lock_file(opensci):
    said = opensci("kernels", "build", "5.5.0")
    assert said == f"{opensci.place}/cache/opensci/environments/transformers-5.5.0/bin/python\n"
    assert "5.5.0 built, without a lock file" in opensci("kernels", "list")
    assert "not a release that this project supports" in opensci("kernels", "build", "9.9.9", succeeds=False)
