"""What one forward pass computed, position by position, in one memory-mapped safetensors file.

For each prompt `i` the file holds

- `{i}.token_ids`, int64 (positions): the prompt as the model read it
- `{i}.logits`, dtype as computed (positions, vocabulary): next-token logits, no cast, no rounding
- `{i}.next_logits`, the same (vocabulary): those of the last position
- `{i}.surprisal`, float64 (positions - 1): -log p of the token that follows each position, nats
- `{i}.cos`, `{i}.sin`, dtype as computed (positions, head_dim): rotary embedding given to the layers
- `{i}.inv_freq`, float32 (head_dim / 2): the rotary buffer right after the forward pass
- `{i}.fingerprints`, int64 (stages, positions): a 64-bit hash of each stage's output at each position
- `{i}.trace`, uint8 (bytes): the operations that torch was asked for (`trace.encoded`)

and, as metadata, the prompts and the names of the stages in the order in which they were computed. A capture that was
compared with a reference as it was computed holds, instead of logits, `{i}.{name}` for each name in `COMPARED`.

Logits are compared and written `ROWS` positions at a time and read through `numpy.memmap`: a prompt of 16,384 tokens
over 50,304 words takes no more memory than its activations do. The format is that of
https://github.com/huggingface/safetensors#format. Nothing here needs torch: `observe` fills a capture.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import ml_dtypes
import numpy as np

from opensci_lib.errors import OpensciError
from opensci_lib.runs.logits import compare_rows, surprisal

_DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
# The header comes first in the file but is known last; the format allows it to end in spaces.
_HEADER_BYTES = 1 << 18

#: Positions whose logits are computed, compared and held at once.
ROWS = 1024

#: What a capture with a reference holds instead of logits: the keys of `logits.compare_rows`.
COMPARED = ("bitwise_equal", "max_abs_diff", "mean_abs_diff", "kl", "top1_agreement")


class Capture:
    """A capture on disk: `capture["0.logits"]` is a read-only `numpy.memmap`.

    Raises:
        OpensciError: when the file is not there, is no capture, or holds other bytes than its header promises.

    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        try:
            self._entries, self._start = _read_header(self.path)
            metadata = self._entries.pop("__metadata__")
            _check_offsets(self._entries, self.path.stat().st_size - self._start)
            #: The prompts, in the order of their number.
            self.prompts: list[str] = json.loads(metadata["prompts"])
            #: Names of the fingerprinted stages, in the order in which the model computed them.
            self.stages: list[str] = json.loads(metadata["stages"])
            #: The digest of the capture that this one was compared with as it was computed, or None.
            self.reference: str | None = json.loads(metadata["reference"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise OpensciError(f"{self.path} is missing, cut off or no capture: run infer.ipynb again.") from error

    def __contains__(self, name: str) -> bool:
        """Whether there is a tensor of this name."""
        return name in self._entries

    def __getitem__(self, name: str) -> np.memmap:
        """Return one tensor, mapped, not read."""
        return self.rows(name, 0, self._entries[name]["shape"][0])

    def rows(self, name: str, start: int, stop: int) -> np.memmap:
        """Map only some rows of a tensor: they leave memory with the array that is returned."""
        entry = self._entries[name]
        dtype, (count, *others) = _DTYPES[entry["dtype"]], entry["shape"]
        shape = (min(stop, count) - start, *others)
        skipped = start * prod(others) * dtype.itemsize
        return np.memmap(
            self.path, dtype, mode="r", offset=self._start + entry["data_offsets"][0] + skipped, shape=shape
        )

    @property
    def keeps_logits(self) -> bool:
        """Whether the logits themselves are here."""
        return "0.logits" in self

    @cached_property
    def digest(self) -> str:
        """A hash of all fingerprints: equal for captures that are equal at every stage and position."""
        digest = hashlib.sha256()
        for number in range(len(self.prompts)):
            digest.update(self[f"{number}.fingerprints"].tobytes())
        return digest.hexdigest()


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return a safetensors file's header and the number of bytes before its data."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:  # before it is read: eight bytes of something else promise anything
            raise ValueError
        return json.loads(file.read(length)), 8 + length


def _check_offsets(entries: dict[str, Any], size: int) -> None:
    """Raise ValueError unless the tensors fill the data, `size` bytes, without gap or overlap."""
    end = 0
    for entry in sorted(entries.values(), key=lambda entry: entry["data_offsets"]):
        begin, end = end, end + prod(entry["shape"]) * _DTYPES[entry["dtype"]].itemsize
        if entry["data_offsets"] != [begin, end]:
            raise ValueError
    if end != size:
        raise ValueError


class CaptureWriter:
    """Append tensors to a capture one after the other; the file appears, whole, when the block ends well.

    Until then it is written beside, as `path` with ".partial" after it, and an older file at `path` stays as it is.
    """

    def __init__(self, path: Path | str, prompts: list[str], reference: str | None = None):
        self.path = Path(path)
        self.prompts = prompts
        self.reference = reference
        self.stages: list[str] = []
        self._header: dict[str, Any] = {}
        self._end = 0

    def __enter__(self) -> CaptureWriter:
        self._partial = self.path.with_name(self.path.name + ".partial")
        self._file = self._partial.open("wb")
        self._file.seek(_HEADER_BYTES)
        return self

    def add(self, name: str, rows: np.ndarray) -> None:
        """Append a tensor in its own dtype or, where the last one was of this name, more rows to it."""
        self._file.write(rows.tobytes())
        first, self._end = self._end, self._end + rows.nbytes
        entry = self._header.setdefault(
            name, {"dtype": _CODES[rows.dtype], "shape": [0, *rows.shape[1:]], "data_offsets": [first, first]}
        )
        if entry["data_offsets"][1] != first:
            raise ValueError(f"{name} is not the tensor that was written last")
        if (_DTYPES[entry["dtype"]], entry["shape"][1:]) != (rows.dtype, [*rows.shape[1:]]):
            raise ValueError(f"rows of {name} come in another dtype or shape")
        entry["shape"][0] += len(rows)
        entry["data_offsets"][1] = self._end

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._file:
                if error is None:
                    self._write_header()
            if error is None:
                self._partial.replace(self.path)
        finally:
            self._partial.unlink(missing_ok=True)

    def _write_header(self) -> None:
        about = {"prompts": self.prompts, "stages": self.stages, "reference": self.reference}
        metadata = {name: json.dumps(value) for name, value in about.items()}
        header = json.dumps({"__metadata__": metadata, **self._header}).encode()
        room = _HEADER_BYTES - 8
        if len(header) > room:
            raise OpensciError(
                f"The header of {self.path} has room for {room} bytes and the prompts and names of its tensors take "
                f"{len(header)}: give fewer or shorter prompts."
            )
        self._file.seek(0)
        self._file.write(room.to_bytes(8, "little") + header.ljust(room))


class LogitsWriter:
    """Takes the logits of a prompt as they are computed: writes them, or compares them with a reference's.

    Args:
        writer: what they are written to.
        number: which prompt.
        token_ids: the prompt's ids, int64 (positions).
        reference: a capture to compare with, or None.

    Raises:
        OpensciError: when the reference does not hold the logits of the same tokens.

    """

    def __init__(self, writer: CaptureWriter, number: int, token_ids: np.ndarray, reference: Capture | None):
        self.token_ids = token_ids
        self._writer, self._number, self._reference = writer, number, reference
        self._done = 0
        self._surprisal = [np.empty(0)]
        self._compared: list[dict[str, np.ndarray]] = []
        if reference is not None and not (
            f"{number}.logits" in reference and np.array_equal(reference[f"{number}.token_ids"], token_ids)
        ):
            raise OpensciError(
                f"{reference.path} does not hold the logits of prompt {number} with the same token ids: "
                "give as reference a run of the same prompts that kept its logits."
            )

    def take(self, rows: np.ndarray) -> None:
        """Take the next positions' logits, (positions, vocabulary)."""
        name = f"{self._number}.logits"
        begin, self._done = self._done, self._done + len(rows)
        following = self.token_ids[begin + 1 : self._done + 1]
        if len(following):
            self._surprisal.append(surprisal(rows[: len(following)], following))
        self._last = rows[-1].copy()
        if self._reference is None:
            self._writer.add(name, rows)
        else:
            self._compared.append(compare_rows(self._reference.rows(name, begin, self._done), rows))

    def finish(self) -> None:
        """Write what was gathered on the way."""
        self._writer.add(f"{self._number}.next_logits", self._last)
        self._writer.add(f"{self._number}.surprisal", np.concatenate(self._surprisal))
        if self._compared:
            for key, values in _joined(self._compared).items():
                self._writer.add(f"{self._number}.{key}", values)


def compare_pieces(reference: Capture, candidate: Capture, prompt: int) -> dict[str, np.ndarray]:
    """Return `logits.compare_rows` of two captures that keep their logits, read a piece at a time."""
    name, count = f"{prompt}.logits", len(reference[f"{prompt}.token_ids"])
    return _joined(
        [
            compare_rows(reference.rows(name, start, start + ROWS), candidate.rows(name, start, start + ROWS))
            for start in range(0, count, ROWS)
        ]
    )


def _joined(pieces: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return what `compare_rows` says of all positions from what it says of some after the other."""
    return {key: np.concatenate([piece[key] for piece in pieces]) for key in COMPARED}
