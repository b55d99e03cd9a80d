"""One process of `ranks.py`: load its part of a model, and print what it holds.

torchrun --nproc-per-node 2 rank.py FOLDER    prints, a process, {"rank": 0, "weights": bytes}
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from opensci_lib.runs.loading import load


def held(parameter: Any) -> int:
    """Return how many bytes of a parameter are in this process."""
    part = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return part.numel() * part.element_size()


if __name__ == "__main__":
    model, _ = load(sys.argv[1], tp_plan="auto")
    found = {"rank": int(os.environ["RANK"]), "weights": sum(map(held, model.parameters()))}
    sys.stdout.write(json.dumps(found) + "\n")  # in one write, as all print to one place
