"""What one forward pass computed, position by position, in one memory-mapped safetensors file.

For each prompt `i` the file holds

- `{i}.token_ids`, int64 (positions): the prompt as the model read it
- `{i}.logits`, dtype as computed (positions, vocabulary): next-token logits, no cast, no rounding
- `{i}.cos`, `{i}.sin`, dtype as computed (positions, head_dim): rotary embedding given to the layers
- `{i}.inv_freq`, float32 (head_dim / 2): the rotary buffer right after the forward pass
- `{i}.fingerprints`, int64 (stages, positions): a 64-bit hash of each stage's output at each position

and, as metadata, the prompts and the names of the stages in the order in which they were computed.
It is written tensor by tensor and read through `numpy.memmap`: a prompt of 16,384 tokens over 50,304
words is compared in pieces. The format is that of https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    import torch

_DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
# The header comes first in the file but is known last; the format allows it to end in spaces.
_HEADER_BYTES = 1 << 18
_ROWS = 1024  # positions held at once while hashing or copying: bounds memory at any prompt length


class Capture:
    """A capture on disk: `capture["0.logits"]` is a read-only `numpy.memmap`."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        with self.path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        metadata = header.pop("__metadata__")
        #: The prompts, in the order of their number.
        self.prompts: list[str] = json.loads(metadata["prompts"])
        #: Names of the fingerprinted stages, in the order in which the model computed them.
        self.stages: list[str] = json.loads(metadata["stages"])
        self._tensors = {
            name: np.memmap(
                self.path,
                dtype=_DTYPES[entry["dtype"]],
                mode="r",
                offset=8 + length + entry["data_offsets"][0],
                shape=tuple(entry["shape"]),
            )
            for name, entry in header.items()
        }

    def __getitem__(self, name: str) -> np.memmap:
        """Return one tensor, mapped, not read."""
        return self._tensors[name]


class CaptureWriter:
    """Append tensors to a capture one after the other; the file appears, whole, when the block ends well."""

    def __init__(self, path: Path | str, prompts: list[str]):
        self.path = Path(path)
        self.prompts = prompts
        self.stages: list[str] = []
        self._header: dict[str, Any] = {}
        self._end = 0

    def __enter__(self) -> CaptureWriter:
        self._partial = self.path.with_name(self.path.name + ".partial")
        self._file = self._partial.open("wb")
        self._file.seek(_HEADER_BYTES)
        return self

    def add(self, name: str, tensor: torch.Tensor | np.ndarray) -> None:
        """Append one tensor, in pieces, in its own dtype."""
        first = self._end
        for rows in range(0, len(tensor), _ROWS):
            piece = _numpy(tensor[rows : rows + _ROWS])
            self._file.write(piece.tobytes())
            self._end += piece.nbytes
        self._header[name] = {
            "dtype": _CODES[piece.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [first, self._end],
        }

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if error is None:
                metadata = {"prompts": json.dumps(self.prompts), "stages": json.dumps(self.stages)}
                header = json.dumps({"__metadata__": metadata, **self._header}).encode()
                room = _HEADER_BYTES - 8
                if len(header) > room:
                    raise ValueError(f"the header of {self.path} needs {len(header)} bytes and has {room}")
                self._file.seek(0)
                self._file.write(room.to_bytes(8, "little") + header.ljust(room))
        if error is None:
            self._partial.replace(self.path)
        else:
            self._partial.unlink()


def capture(model: torch.nn.Module, prompts: list[str], token_ids: list[list[int]], path: Path | str) -> Capture:
    """Run `model` once over each prompt and write everything that it computed to `path`.

    The forward pass is the plain one (the whole prompt at once, no padding, no KV cache), so that
    every position can be compared between releases. `token_ids[i]` are the ids of `prompts[i]`.
    """
    import torch

    with CaptureWriter(path, prompts) as writer:
        for number, ids in enumerate(token_ids):
            with _observe(model) as seen, torch.inference_mode():
                logits = model(torch.tensor([ids], device=model.device), use_cache=False).logits[0]
            writer.stages = list(seen.fingerprints)
            writer.add(f"{number}.token_ids", np.asarray(ids, dtype=np.int64))
            writer.add(f"{number}.logits", logits)
            del logits  # gigabytes on a long prompt
            for name, tensor in seen.rope.items():
                writer.add(f"{number}.{name}", tensor)
            writer.add(f"{number}.fingerprints", np.stack(list(seen.fingerprints.values())))
    return Capture(path)


@dataclass
class _Observed:
    """What the hooks saw during one forward pass."""

    rope: dict[str, torch.Tensor] = field(default_factory=dict)
    fingerprints: dict[str, np.ndarray] = field(default_factory=dict)


@contextmanager
def _observe(model: torch.nn.Module) -> Generator[_Observed]:
    """Watch a forward pass through hooks: every module that returns (1, positions, features), and RoPE.

    Queries and keys after RoPE are no module's output. They are seen by wrapping the modelling
    file's `apply_rotary_pos_emb`, a name that all Llama-shaped models of transformers share.
    """
    import torch

    seen = _Observed()
    inside: list[str] = []  # names of the modules being computed, outermost first

    def entering(name: str) -> Any:
        return lambda module, args: inside.append(name)

    def leaving(name: str) -> Any:
        def hook(module: torch.nn.Module, args: Any, output: Any) -> None:
            inside.pop()
            if hasattr(module, "inv_freq"):
                cos, sin = output
                inv_freq = module.inv_freq.detach().clone()
                seen.rope = {"cos": cos[0].clone(), "sin": sin[0].clone(), "inv_freq": inv_freq}
                return
            if isinstance(output, tuple):
                output = output[0]
            if isinstance(output, torch.Tensor) and output.dim() == 3:
                seen.fingerprints[name] = fingerprints(output[0])

        return hook

    handles = []
    for name, module in model.named_modules():
        if name and not isinstance(module, torch.nn.ModuleList):
            handles.append(module.register_forward_pre_hook(entering(name)))
            handles.append(module.register_forward_hook(leaving(name)))

    source: Any = sys.modules[type(model).__module__]
    rotate = getattr(source, "apply_rotary_pos_emb", None)

    def observed_rotate(q: torch.Tensor, k: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        assert rotate is not None
        rotated = rotate(q, k, *args, **kwargs)
        for kind, heads in zip(("q_rope", "k_rope"), rotated, strict=True):
            # (1, heads, positions, head_dim) to (positions, heads * head_dim)
            seen.fingerprints[f"{inside[-1]}.{kind}"] = fingerprints(heads[0].transpose(0, 1).flatten(1))
        return rotated

    if rotate is not None:
        source.apply_rotary_pos_emb = observed_rotate
    try:
        yield seen
    finally:
        if rotate is not None:
            source.apply_rotary_pos_emb = rotate
        for handle in handles:
            handle.remove()


def fingerprints(output: torch.Tensor) -> np.ndarray:
    """Hash each position's bits: (positions, features) in any float dtype to int64 (positions,).

    The sum over features of the bits times a fixed odd number, modulo 2**64. Integer sums have no
    rounding and no order, so equal bits give equal hashes on any machine and number of threads.
    """
    import torch

    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[output.element_size()]
    factors = torch.from_numpy(_odd_factors(output.shape[1])).to(output.device)
    pieces = [
        (rows.contiguous().view(bits).to(torch.int64) * factors).sum(dim=1) for rows in output.detach().split(_ROWS)
    ]
    return torch.cat(pieces).cpu().numpy()


def _odd_factors(count: int) -> np.ndarray:
    """Return `count` well-mixed odd int64 numbers: the SplitMix64 sequence (Steele et al., 2014)."""
    with np.errstate(over="ignore"):
        z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return ((z ^ (z >> np.uint64(31))) | np.uint64(1)).view(np.int64)


def _numpy(tensor: torch.Tensor | np.ndarray) -> np.ndarray:
    """Return the same bits as a numpy array; numpy has no bfloat16 of its own."""
    if isinstance(tensor, np.ndarray):
        return tensor
    import torch

    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
