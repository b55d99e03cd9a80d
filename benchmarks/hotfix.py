"""Time and disk of a hotfix as the weights grow, against copying the folder and replacing text in the copy.

    uv run python benchmarks/hotfix.py

Writes `benchmarks/results/hotfix.json` and prints it as a table. The weights are sparse files with a right header;
copying one of 70 GB would write as many bytes, so that size is only hotfixed.
"""

import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from opensci_lib.hotfix import hotfix

HERE = Path(__file__).parent
CODE = HERE.parent / "opensci_lib" / "miniature"
SIZES = {"3.4 MB": 3_400_000, "3.4 GB": 3_400_000_000, "70 GB": 70_000_000_000}
COPIED = ("3.4 MB", "3.4 GB")
REPETITIONS = 5


def make(folder: Path, size: int) -> None:
    """Write a model folder with `size` bytes of weights."""
    folder.mkdir()
    for name in ("modeling_opensci.py", "configuration_opensci.py"):
        shutil.copyfile(CODE / name, folder / name)
    config = {"auto_map": {"AutoConfig": "configuration_opensci.OpensciConfig"}}
    config["auto_map"]["AutoModelForCausalLM"] = "modeling_opensci.OpensciForCausalLM"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    entry = {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}
    header = json.dumps({"weights": entry}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)


def copy_and_replace(source: Path, target: Path) -> None:
    """Patch a copy of a folder the plain way."""
    shutil.copytree(source, target)
    file = target / "modeling_opensci.py"
    file.write_text(file.read_text().replace("LossKwargs", "TransformersKwargs"))


def timed(action, source: Path, target: Path) -> tuple[float, int]:
    """Return seconds and bytes of disk that an action took."""
    begun = time.perf_counter()
    action(source, target)
    seconds = time.perf_counter() - begun
    # What only the target holds: a hard link takes no room.
    used = sum(status.st_blocks * 512 for file in target.iterdir() if (status := file.stat()).st_nlink == 1)
    shutil.rmtree(target)
    return seconds, used


def main() -> None:
    """Measure, in turn, print and save."""
    rows = []
    outputs = HERE.parent / "outputs"  # ignored by git, and on the disk of the checkout
    outputs.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=outputs) as scratch:
        for name, size in SIZES.items():
            source = Path(scratch) / name.replace(" ", "")
            make(source, size)
            ways = {"hotfix": hotfix, "copy and replace": copy_and_replace}
            for way in ways if name in COPIED else ["hotfix"]:
                runs = [timed(ways[way], source, Path(scratch) / "target") for _ in range(REPETITIONS)]
                rows.append(
                    {
                        "weights": name,
                        "way": way,
                        "median seconds": round(statistics.median(seconds for seconds, _ in runs), 3),
                        "least": round(min(seconds for seconds, _ in runs), 3),
                        "most": round(max(seconds for seconds, _ in runs), 3),
                        "disk (MB)": round(statistics.median(used for _, used in runs) / 1e6, 2),
                    }
                )
    machine = {"cores": os.cpu_count(), "system": platform.system(), "processor": platform.machine()}
    versions = {"python": platform.python_version(), "libcst": version("libcst")}
    record = {"repetitions": REPETITIONS, "machine": machine, "versions": versions, "rows": rows}
    (HERE / "results" / "hotfix.json").write_text(json.dumps(record, indent=2) + "\n")
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
