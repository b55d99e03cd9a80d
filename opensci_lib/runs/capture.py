"""What one forward pass computed, position by position, in one safetensors file.

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
compared with a reference as it was computed holds, instead of logits, `{i}.{name}` for each of `logits.COMPARED`.
vLLM shows less: see `runs.vllm`.

Logits are written and read some positions at a time: a prompt of 16,384 tokens over 50,304 words takes no more memory
than its activations do. The library reads the format, https://github.com/huggingface/safetensors#format, and can't
write it piece by piece: `CaptureWriter` does. Nothing here needs torch: `observe` fills a capture.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from opensci_lib.errors import OpensciError

# What the format calls the dtypes that a capture holds.
_CODES = {
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
    np.dtype(np.float64): "F64",
    np.dtype(np.int64): "I64",
    np.dtype(np.bool_): "BOOL",
    np.dtype(np.uint8): "U8",
}
# The header comes first in the file but is known last; the format allows it to end in spaces.
_HEADER_BYTES = 1 << 18


class Capture:
    """A capture on disk: `capture["0.logits"]` is a numpy array, read when it is asked for.

    Raises:
        OpensciError: when the file is not there, is no capture, or holds other bytes than its header promises.

    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        try:
            with safe_open(self.path, framework="np") as file:
                self._names = set(file.keys())
                metadata = file.metadata()
            #: The prompts, in the order of their number.
            self.prompts: list[str] = json.loads(metadata["prompts"])
            #: Names of the fingerprinted stages, in the order in which the model computed them.
            self.stages: list[str] = json.loads(metadata["stages"])
            #: The digest of the capture that this one was compared with as it was computed, or None.
            self.reference: str | None = json.loads(metadata["reference"])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise OpensciError(f"{self.path} is missing, cut off or no capture: run infer.ipynb again.") from error

    def __contains__(self, name: str) -> bool:
        """Whether there is a tensor of this name."""
        return name in self._names

    def __getitem__(self, name: str) -> np.ndarray:
        """Read one tensor."""
        with safe_open(self.path, framework="np") as file:
            return file.get_tensor(name)

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Read some rows of a tensor, from `start` until before `stop` or the end."""
        with safe_open(self.path, framework="np") as file:
            tensor = file.get_slice(name)
            return tensor[start : min(stop, tensor.get_shape()[0])]

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
        if (entry["dtype"], entry["shape"][1:]) != (_CODES[rows.dtype], [*rows.shape[1:]]):
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
