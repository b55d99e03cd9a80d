"""The release that a model's runs are held against: named, or found, and recorded among its results."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from opensci_lib.model_folder import read_json, write_json
from opensci_lib.runs import REFERENCE_RELEASE, ascending

#: The record in `outputs/<model>`.
FILE = "reference.json"


@dataclass(frozen=True)
class Reference:
    """A release, under which the run of the unmodified folder is the one that all others are compared with."""

    tf_version: str = REFERENCE_RELEASE
    #: Whether it is the oldest on which the unmodified folder loads and repeats itself, or was named.
    found: bool = False
    #: What the unmodified folder fails of on the older releases.
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def run(self) -> str:
        """The run, as "<tf_version>/<variant>"."""
        return f"{self.tf_version}/original"

    @property
    def sentence(self) -> str:
        """What reports say of it."""
        said = f"The reference is the original on {self.tf_version}"
        if not self.found:
            return f"{said}."
        said += ", the oldest locked release on which the unmodified folder loads and repeats itself"
        if not self.failed:
            return f"{said}."
        last = ascending(self.failed)[-1]
        return f"{said}. Older ones are left out; {last} fails ({self.failed[last]})."

    def save(self, path: Path | str) -> None:
        """Write it as JSON."""
        write_json(Path(path), asdict(self))


def reference_of(folder: Path | str) -> Reference:
    """Return the reference recorded in `outputs/<model>`; where none is, it is `REFERENCE_RELEASE`, as named."""
    path = Path(folder) / FILE
    return Reference(**read_json(path)) if path.exists() else Reference()
