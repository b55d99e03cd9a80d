"""What does a hotfix take as the weights grow, against copying the folder and replacing text in the copy?

    uv run python benchmarks/hotfix.py

Both ways in turn, on folders with weights of 3.4 MB, 3.4 GB and 70 GB: sparse files with a right header. Copying one
of 70 GB would write as many bytes, so that size is only hotfixed. Disk is what only the new folder takes.

What the rewriting itself costs is CPU, user's and system's, of the whole command from Python's start to its end,
against one parse of the same code by libcst with names, parents and positions, also in a process of its own.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import click
from checkout import UV, call, scratch
from record import at_most, own_bytes, rounded, save, seconds, spread
from tqdm import tqdm

from opensci_lib.hotfix import hotfix
from opensci_lib.miniature import MODEL

SIZES = {"3.4 MB": 3_400_000, "3.4 GB": 3_400_000_000, "70 GB": 70_000_000_000}
COPIED = ("3.4 MB", "3.4 GB")


def make(folder: Path, size: int, code: Path) -> None:
    """Write a model folder with `size` bytes of weights and the code of another one."""
    folder.mkdir()
    for name in ("modeling_opensci.py", "configuration_opensci.py"):
        shutil.copyfile(code / name, folder / name)
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


_COMMAND = "from opensci_lib.cli import main; main(sys.argv[1:], standalone_mode=False)"
_PARSE = """
from libcst import metadata, parse_module
wrapper = metadata.MetadataWrapper(parse_module(open(sys.argv[1]).read()), unsafe_skip_copy=True)
for provider in (metadata.QualifiedNameProvider, metadata.ParentNodeProvider, metadata.PositionProvider):
    wrapper.resolve(provider)
"""


def cpu_seconds(python: list[str], code: str, *arguments: object) -> float:
    """Return the CPU that a Python process took for a piece of code, from its start on."""
    timed = f"import sys, time\n{code}\nprint(time.process_time())"
    return float(call(*python, "-c", timed, *map(str, arguments)).splitlines()[-1])


def rewriting(source: Path, target: Path) -> tuple[float, float]:
    """Return the CPU of a hotfix, and of libcst's parse of the model's code."""
    ours = cpu_seconds([sys.executable], _COMMAND, "hotfix", "--src_dir", source, "--dst_dir", target)
    shutil.rmtree(target)
    libcst = [UV, "run", "--no-project", "--with", "libcst", "python"]
    return ours, cpu_seconds(libcst, _PARSE, source / "modeling_opensci.py")


WAYS = {"hotfix": hotfix, "copy and replace": copy_and_replace}


def measure(action: Callable[[Path, Path], object], source: Path, target: Path) -> tuple[float, int]:
    """Return seconds and bytes of disk that an action took."""
    duration = seconds(action, source, target)
    used = own_bytes(target)
    shutil.rmtree(target)
    return duration, used


@click.command()
@click.option("--repetitions", default=5, show_default=True, help="How often each way is measured.")
@click.option("--code", default=MODEL, type=click.Path(path_type=Path), help="A folder with the model's code.")
def main(repetitions: int, code: Path) -> None:
    """Measure both ways in turn, print and save."""
    runs = defaultdict(list)
    with scratch() as folder:
        for name, size in SIZES.items():
            make(folder / name, size, code)
        pairs = [(name, way) for name in SIZES for way in WAYS if way == "hotfix" or name in COPIED]
        for name, way in tqdm(pairs * repetitions, "folders"):
            runs[name, way].append(measure(WAYS[way], folder / name, folder / "target"))
        turns = [rewriting(folder / "3.4 MB", folder / "target") for _ in range(repetitions)]
    cpu = [statistics.median(values) for values in zip(*turns, strict=True)]
    rows = [
        {
            "weights": name,
            "way": way,
            **spread(duration for duration, _ in runs[name, way]),
            "disk (MB)": round(statistics.median(used for _, used in runs[name, way]) / 1e6, 2),
        }
        for name, way in pairs
    ]
    ours = [row for row in rows if row["way"] == "hotfix"]
    times = [row["median seconds"] for row in ours]
    save(
        "hotfix",
        rows,
        [
            at_most(1.1, "longest / shortest hotfix over all sizes", max(times) / min(times)),
            at_most(1, "disk of a hotfix, MB", max(row["disk (MB)"] for row in ours)),
            at_most(0.5, "CPU of a hotfix / of libcst's parse with names, parents and positions", cpu[0] / cpu[1]),
        ],
        repetitions,
        cpu_seconds={"hotfix": rounded(cpu[0]), "libcst": rounded(cpu[1])},
        hotfix_to_copy={
            name: rounded(
                statistics.median(
                    fix / copy
                    for (fix, _), (copy, _) in zip(runs[name, "hotfix"], runs[name, "copy and replace"], strict=True)
                )
            )
            for name in COPIED
        },
    )


if __name__ == "__main__":
    main()
