"""Downloads, through the console script, from a Hub on loopback and from local folders."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.hub import Hub, serve

COMMITS = {"main": "a" * 40, "iter_0002000": "b" * 40}


@pytest.fixture
def folder(tmp_path):
    """A folder with the files of a model, and some that nobody should download."""
    folder = tmp_path / "repository"
    folder.mkdir()
    config = {"auto_map": {"AutoModelForCausalLM": "modeling_opensci.OpensciForCausalLM"}, "model_type": "opensci"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_opensci.py").write_text("class OpensciForCausalLM: ...\n")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    save_file({"weight": np.arange(50_000, dtype=np.float32)}, folder / "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "training.log").write_text("steps")
    return folder


@pytest.fixture
def hub(folder, tmp_path):
    """A running Hub and a function that calls `opensci download` against it."""
    hub = Hub(folder, "org/name", COMMITS)
    with serve(hub) as address:
        hub.environment = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        yield hub


def opensci_download(*arguments, **environment):
    command = [Path(sys.executable).with_name("opensci"), "download", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def one_sentence(result):
    """Return the error of a failed command, having checked that it is one line and no traceback."""
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, result.stderr
    return errors[0]


def test_from_the_hub_to_its_cache(hub, folder):
    result = opensci_download("org/name", **hub.environment)
    assert result.returncode == 0, result.stderr
    path = Path(result.stdout.split()[0])
    assert path.name == COMMITS["main"]
    assert COMMITS["main"] in result.stdout.split("commit")[1]
    assert {file.name for file in path.iterdir()} == {
        "config.json", "modeling_opensci.py", "tokenizer.json", "tokenizer_config.json", "model.safetensors",
    }  # fmt: skip
    assert (path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_revision_is_resolved_and_recorded(hub, folder, tmp_path):
    there = tmp_path / "model"
    arguments = ["org/name", "--revision", "iter_0002000", "--local_dir", str(there)]
    assert opensci_download(*arguments, **hub.environment).returncode == 0
    record = json.loads((there / "download.json").read_text())
    assert record == {
        "model": "org/name", "revision": "iter_0002000", "commit": COMMITS["iter_0002000"], "path": str(there),
        "weights_bytes": (folder / "model.safetensors").stat().st_size,
    }  # fmt: skip
    asked = len(hub.requests)
    assert opensci_download(*arguments, **hub.environment).returncode == 0
    assert len(hub.requests) == asked  # what is complete is not asked for again


def test_offline_uses_the_cache_or_says_so(hub):
    offline = {**hub.environment, "HF_HUB_OFFLINE": "1"}
    assert "can't be reached" in one_sentence(opensci_download("org/name", **offline))
    assert opensci_download("org/name", **hub.environment).returncode == 0
    asked = len(hub.requests)
    result = opensci_download("org/name", **offline)
    assert result.returncode == 0, result.stderr
    assert COMMITS["main"] in result.stdout
    assert len(hub.requests) == asked


def test_token_is_sent(hub):
    opensci_download("org/name", **hub.environment, HF_TOKEN="hf_secret")
    assert "Bearer hf_secret" in hub.authorizations


def test_an_interrupted_download_goes_on(hub, folder):
    hub.cut_after = 70_000
    result = opensci_download("org/name", **hub.environment)
    if result.returncode != 0:  # releases of the client differ in whether they retry by themselves
        result = opensci_download("org/name", **hub.environment)
    assert result.returncode == 0, result.stderr
    path = Path(result.stdout.split()[0])
    assert (path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["org/other"], "has no model 'org/other'"),
        (["org/name", "--revision", "iter_9"], "no revision 'iter_9'"),
        (["not a name"], "neither a folder, nor 'miniature', nor a Hub id"),
    ],
)
def test_what_the_hub_does_not_have(hub, arguments, sentence):
    assert sentence in one_sentence(opensci_download(*arguments, **hub.environment))


def test_no_network_at_all(tmp_path):
    # Port 9 (discard) has no listener: connections are refused at once.
    result = opensci_download("org/name", HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path))
    assert "can't be reached" in one_sentence(result)


def test_a_local_folder_is_linked(folder, tmp_path):
    there = tmp_path / "model"
    assert opensci_download(str(folder), "--local_dir", str(there)).returncode == 0
    assert (there / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert not (there / "pytorch_model.bin").exists()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "config.json").write_text('{"a": '), "config.json"),
        (lambda folder: os.truncate(folder / "model.safetensors", 1000), "model.safetensors"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer"),
    ],
)
def test_an_incomplete_folder_is_named(folder, tmp_path, spoil, sentence):
    spoil(folder)
    there = tmp_path / "model"
    assert sentence in one_sentence(opensci_download(str(folder), "--local_dir", str(there)))
    assert not there.exists()
