"""What `opensci prove` has shown of code: by its digest, for which releases.

Proofs of published code are part of this package, in `proofs.json`; those of other code stand in the `hotfix.json` of
the folder. Weights do not enter into them; a change of the code, or of what the rules make of it, does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opensci_lib.model_folder import code_digest, read_json, write_json

#: Digest of fixed code to `of`, `reference`, `releases`, `date` and `command`.
SHIPPED = Path(__file__).with_name("proofs.json")
_RECORD, _KEY = "hotfix.json", "proven"


def proof_of(folder: Path) -> dict[str, Any] | None:
    """Return what was proven of the code in a fixed folder, or None."""
    digest = code_digest(folder)
    record = folder / _RECORD
    own = read_json(record).get(_KEY, {}) if record.exists() else {}
    if own.get("digest") == digest:
        return own
    return read_json(SHIPPED).get(digest)


def keep_proof(folder: Path, proof: dict[str, Any]) -> bool:
    """Write a proof into a folder's record, and say whether that was done: only where the code is the proof's."""
    record = folder / _RECORD
    if not record.exists() or code_digest(folder) != proof["digest"]:
        return False
    write_json(record, {**read_json(record), _KEY: proof})
    return True
