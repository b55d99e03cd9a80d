"""Does a model that one release fine-tuned and saved load, and compute the same, on another?

Writes docs/saved.csv. `uv run python benchmarks/saved.py [RELEASE ...]`, in some five minutes for four releases.
"""

import csv
import json
import sys
import tempfile
from pathlib import Path

from opensci_lib import kernels, project
from opensci_lib.hotfix import hotfix
from opensci_lib.miniature import MODEL

RELEASES = ["4.48.0", "4.57.6", "5.0.0", "5.23.0"]

_SAVE = """
import sys, torch
from opensci_lib.runs.loading import load

model, tokenizer = load(sys.argv[1], "float32", "cpu")
ids = torch.tensor([tokenizer("The capital of France is Paris.")["input_ids"]])
model.train()(ids, labels=ids, use_cache=False).loss.backward()
torch.optim.SGD(model.parameters(), lr=1e-2).step()
model.save_pretrained(sys.argv[2])
tokenizer.save_pretrained(sys.argv[2])
"""

_LOAD = """
import hashlib, json, sys, torch
from opensci_lib.compat import awkward
from opensci_lib.runs.loading import load

found = {}
for name, folder in json.loads(sys.argv[1]).items():
    try:
        model, tokenizer = load(folder, "float32", "cpu")
        ids = [tokenizer(text)["input_ids"] for text in awkward.strings()]
        with torch.no_grad():
            logits = model(torch.arange(5, 205)[None], use_cache=False).logits
        parts = logits.numpy().tobytes(), repr(ids).encode()
        found[name] = [hashlib.sha256(part).hexdigest()[:10] for part in parts]
    except Exception as error:
        said = str(error).replace(folder, folder.rpartition("/")[2]).partition("): run")[0]
        found[name] = [said, ""]
json.dump(found, open(sys.argv[2], "w"))
"""


def main(releases: list[str]) -> None:
    """Save on each release, load on each, as saved and after `opensci hotfix`."""
    work = Path(tempfile.mkdtemp(prefix="opensci-saved-"))
    fixed, folders = hotfix(MODEL, work / "fixed").dst_dir, {}
    for release in releases:
        saved = work / f"saved_{release.replace('.', '_')}"
        kernels.run(release, "-c", _SAVE, fixed, saved)
        folders[f"{release},as saved"] = str(saved)
        folders[f"{release},after hotfix"] = hotfix(saved).dst_dir
    with (project.ROOT / "docs" / "saved.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["saved_on", "folder", "loaded_on", "logits_sha256", "ids_sha256"])
        for release in releases:
            kernels.run(release, "-c", _LOAD, json.dumps(folders), work / "found.json")
            for name, hashes in json.loads((work / "found.json").read_text()).items():
                table.writerow([*name.split(","), release, *hashes])


if __name__ == "__main__":
    main(sys.argv[1:] or RELEASES)
