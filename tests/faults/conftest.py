"""What tests of faults share: a Hub on loopback for other processes, and places to write to."""

import os
import shutil

import pytest

from opensci_lib.miniature import MODEL
from tests.hub import Hub, serve

COMMIT = "a" * 40


@pytest.fixture
def source(tmp_path):
    """The miniature's folder, in a place of its own."""
    (tmp_path / "place").mkdir()
    return shutil.copytree(MODEL, tmp_path / "place" / "model")


@pytest.fixture
def hub(tmp_path):
    """A Hub that holds the miniature as org/name; `environment` makes processes take it for the real one."""
    hub = Hub(MODEL, "org/name", {"main": COMMIT})
    with serve(hub) as address:
        hub.environment = {
            **{name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "HF_HUB_OFFLINE")},
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
        }
        yield hub
