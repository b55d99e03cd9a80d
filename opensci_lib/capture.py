"""What one forward pass computed, position by position, in one memory-mapped safetensors file.

For each prompt `i` the file holds

- `{i}.token_ids`, int64 (positions): the prompt as the model read it
- `{i}.logits`, dtype as computed (positions, vocabulary): next-token logits, no cast, no rounding
- `{i}.next_logits`, the same (vocabulary): those of the last position
- `{i}.surprisal`, float64 (positions - 1): -log p of the token that follows each position, nats
- `{i}.cos`, `{i}.sin`, dtype as computed (positions, head_dim): rotary embedding given to the layers
- `{i}.inv_freq`, float32 (head_dim / 2): the rotary buffer right after the forward pass
- `{i}.fingerprints`, int64 (stages, positions): a 64-bit hash of each stage's output at each position

and, as metadata, the prompts and the names of the stages in the order in which they were computed. A capture that was
compared with a reference as it was computed holds, instead of logits, `{i}.{name}` for each name in `COMPARED`.

Logits are computed, hashed, compared and written `_ROWS` positions at a time and read through `numpy.memmap`: a
prompt of 16,384 tokens over 50,304 words takes no more memory than its activations do. The format is that of
https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from tqdm import tqdm

from opensci_lib.logits import compare_rows, surprisal

if TYPE_CHECKING:
    import torch

_DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
    "BOOL": np.dtype(np.bool_),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
# The header comes first in the file but is known last; the format allows it to end in spaces.
_HEADER_BYTES = 1 << 18
_ROWS = 1024  # positions whose logits are computed and held at once
# Numbers hashed at once. Larger temporaries (eight bytes a number, twice) fragment the heap: measured, gigabytes.
_ELEMENTS = 1 << 16

#: What a capture with a reference holds instead of logits: the keys of `logits.compare_rows`.
COMPARED = ("bitwise_equal", "max_abs_diff", "mean_abs_diff", "kl", "top1_agreement")


class Capture:
    """A capture on disk: `capture["0.logits"]` is a read-only `numpy.memmap`."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        with self.path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            self._entries = json.loads(file.read(length))
        self._start = 8 + length
        metadata = self._entries.pop("__metadata__")
        #: The prompts, in the order of their number.
        self.prompts: list[str] = json.loads(metadata["prompts"])
        #: Names of the fingerprinted stages, in the order in which the model computed them.
        self.stages: list[str] = json.loads(metadata["stages"])
        #: The digest of the capture that this one was compared with as it was computed, or None.
        self.reference: str | None = json.loads(metadata["reference"])

    def __getitem__(self, name: str) -> np.memmap:
        """Return one tensor, mapped, not read."""
        return self.rows(name, 0, self._entries[name]["shape"][0])

    def rows(self, name: str, start: int, stop: int) -> np.memmap:
        """Map only some rows of a tensor: they leave memory with the array that is returned."""
        entry = self._entries[name]
        dtype, (count, *others) = _DTYPES[entry["dtype"]], entry["shape"]
        shape = (min(stop, count) - start, *others)
        skipped = start * int(np.prod(others, dtype=np.int64)) * dtype.itemsize
        return np.memmap(
            self.path, dtype, mode="r", offset=self._start + entry["data_offsets"][0] + skipped, shape=shape
        )

    @property
    def keeps_logits(self) -> bool:
        """Whether the logits themselves are here."""
        return "0.logits" in self._entries

    @cached_property
    def digest(self) -> str:
        """A hash of all fingerprints: equal for captures that are equal at every stage and position."""
        digest = hashlib.sha256()
        for number in range(len(self.prompts)):
            digest.update(self[f"{number}.fingerprints"].tobytes())
        return digest.hexdigest()


class CaptureWriter:
    """Append tensors to a capture one after the other; the file appears, whole, when the block ends well."""

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

    def add(self, name: str, tensor: torch.Tensor | np.ndarray) -> None:
        """Append a tensor in its own dtype or, where the last one was of this name, more rows to it."""
        rows = _numpy(tensor)
        self._file.write(rows.tobytes())
        first, self._end = self._end, self._end + rows.nbytes
        entry = self._header.setdefault(
            name, {"dtype": _CODES[rows.dtype], "shape": [0, *rows.shape[1:]], "data_offsets": [first, first]}
        )
        if entry["data_offsets"][1] != first:
            raise ValueError(f"{name} is not the tensor that was written last")
        entry["shape"][0] += len(rows)
        entry["data_offsets"][1] = self._end

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if error is None:
                about = {"prompts": self.prompts, "stages": self.stages, "reference": self.reference}
                metadata = {name: json.dumps(value) for name, value in about.items()}
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


def capture(
    model: torch.nn.Module,
    prompts: list[str],
    token_ids: list[list[int]],
    path: Path | str,
    reference: Path | str | None = None,
    prefill_chunk_size: int | None = None,
) -> Capture:
    """Run `model` once over each prompt and write everything that it computed to `path`.

    The forward pass is the plain one (the whole prompt at once, no padding, no KV cache), so that
    every position can be compared between releases. `token_ids[i]` are the ids of `prompts[i]`.

    Args:
        model: a decoder with a language-model head.
        prompts: the texts.
        token_ids: their ids.
        path: the file to write.
        reference: a capture of the same prompts, with logits. The new one is compared with it as it is computed and
            keeps the outcome instead of its logits.
        prefill_chunk_size: read a prompt so many tokens at a time, through a KV cache. Attention is then computed by
            other kernels, so compare only with a reference that was read the same way.

    """
    import torch

    against = None if reference is None else Capture(reference)
    with CaptureWriter(path, prompts, None if against is None else against.digest) as writer:
        for number, ids in enumerate(token_ids):
            logits = _Logits(writer, number, np.asarray(ids, dtype=np.int64), against)
            with _observe(model, logits) as seen, torch.inference_mode():
                _prefill(model, torch.tensor([ids], device=model.device), prefill_chunk_size)
            writer.stages = list(seen.fingerprints)
            logits.finish()
            writer.add(f"{number}.token_ids", logits.token_ids)
            for name, pieces in seen.rope.items():
                writer.add(f"{number}.{name}", torch.cat(pieces))
            writer.add(f"{number}.inv_freq", seen.inv_freq)
            writer.add(
                f"{number}.fingerprints", np.stack([np.concatenate(pieces) for pieces in seen.fingerprints.values()])
            )
    return Capture(path)


def compare_pieces(reference: Capture, candidate: Capture, prompt: int) -> dict[str, np.ndarray]:
    """Return `logits.compare_rows` of two captures that keep their logits, read a piece at a time."""
    name, count = f"{prompt}.logits", len(reference[f"{prompt}.token_ids"])
    pieces = [
        compare_rows(reference.rows(name, start, start + _ROWS), candidate.rows(name, start, start + _ROWS))
        for start in range(0, count, _ROWS)
    ]
    return {key: np.concatenate([piece[key] for piece in pieces]) for key in COMPARED}


def _prefill(model: torch.nn.Module, ids: torch.Tensor, chunk_size: int | None) -> None:
    if chunk_size is None:
        model(ids, use_cache=False)
        return
    past = None
    for chunk in ids.split(chunk_size, dim=1):
        past = model(chunk, past_key_values=past, use_cache=True).past_key_values


class _Logits:
    """Takes the logits of a prompt as they are computed: writes them, or compares them with the reference's."""

    def __init__(self, writer: CaptureWriter, number: int, token_ids: np.ndarray, reference: Capture | None):
        self.token_ids = token_ids
        self._writer, self._number, self._reference = writer, number, reference
        self._done = 0
        self._surprisal: list[np.ndarray] = []
        self._compared: list[dict[str, np.ndarray]] = []

    def take(self, piece: torch.Tensor) -> None:
        """Take the next positions' logits, (positions, vocabulary)."""
        rows, name = _numpy(piece), f"{self._number}.logits"
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
        self._writer.add(f"{self._number}.surprisal", np.concatenate([np.empty(0), *self._surprisal]))
        for key in COMPARED if self._compared else ():
            self._writer.add(f"{self._number}.{key}", np.concatenate([piece[key] for piece in self._compared]))


@dataclass
class _Observed:
    """What the hooks saw during the forward pass, in pieces where a prompt is read in pieces."""

    rope: dict[str, list[torch.Tensor]] = field(default_factory=lambda: {"cos": [], "sin": []})
    inv_freq: Any = None
    fingerprints: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def see(self, stage: str, output: torch.Tensor) -> None:
        """Take a stage's output, (positions, features)."""
        self.fingerprints.setdefault(stage, []).append(fingerprints(output))


@contextmanager
def _observe(model: torch.nn.Module, logits: _Logits) -> Generator[_Observed]:
    """Watch a forward pass through hooks: every module that returns (1, positions, features), and RoPE.

    Queries and keys after RoPE are no module's output. They are seen by wrapping the modelling
    file's `apply_rotary_pos_emb`, a name that all Llama-shaped models of transformers share.
    The language-model head computes `_ROWS` positions at a time, gives them to `logits` and returns none:
    all of a long prompt's would take gigabytes.
    """
    import torch

    seen = _Observed()
    inside: list[str] = []  # names of the modules being computed, outermost first
    head = model.get_output_embeddings()

    def entering(name: str) -> Any:
        return lambda module, args: inside.append(name)

    def leaving(name: str) -> Any:
        def hook(module: torch.nn.Module, args: Any, output: Any) -> None:
            inside.pop()
            progress.update()
            if hasattr(module, "inv_freq"):
                for kind, values in zip(seen.rope, output, strict=True):
                    seen.rope[kind].append(values[0].clone())
                seen.inv_freq = module.inv_freq.detach().clone()
                return
            if isinstance(output, tuple):
                output = output[0]
            if module is not head and isinstance(output, torch.Tensor) and output.dim() == 3:
                seen.see(name, output[0])

        return hook

    handles = []
    for name, module in model.named_modules():
        if name and not isinstance(module, torch.nn.ModuleList):
            handles.append(module.register_forward_pre_hook(entering(name)))
            handles.append(module.register_forward_hook(leaving(name)))

    compute = head.forward

    def in_pieces(hidden_states: torch.Tensor) -> torch.Tensor:
        for rows in hidden_states.split(_ROWS, dim=1):
            piece = compute(rows)[0]
            seen.see(inside[-1], piece)
            logits.take(piece)
        return piece[None, :0]

    source: Any = sys.modules[type(model).__module__]
    rotate = getattr(source, "apply_rotary_pos_emb", None)

    def observed_rotate(q: torch.Tensor, k: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        assert rotate is not None
        rotated = rotate(q, k, *args, **kwargs)
        for kind, heads in zip(("q_rope", "k_rope"), rotated, strict=True):
            # (1, heads, positions, head_dim) to (positions, heads * head_dim)
            seen.see(f"{inside[-1]}.{kind}", heads[0].transpose(0, 1).flatten(1))
        return rotated

    head.forward = in_pieces
    if rotate is not None:
        source.apply_rotary_pos_emb = observed_rotate
    short = len(logits.token_ids) <= _ROWS
    try:
        with tqdm(desc="forward pass", unit=" modules", disable=short) as progress:
            yield seen
    finally:
        del head.forward
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
    rows = max(1, _ELEMENTS // output.shape[1])
    pieces = [
        (piece.contiguous().view(bits).to(torch.int64) * factors).sum(dim=1) for piece in output.detach().split(rows)
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
