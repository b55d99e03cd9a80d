"""Watch a model compute, and write all of it to a capture."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from opensci_lib.errors import OpensciError
from opensci_lib.runs.capture import Capture, CaptureWriter
from opensci_lib.runs.logits import ROWS, compare_rows, joined, surprisal
from opensci_lib.runs.tensors import as_numpy, fingerprints
from opensci_lib.runs.trace import encoded, trace

if TYPE_CHECKING:
    import torch


def observe(
    model: torch.nn.Module,
    prompts: list[str],
    token_ids: list[list[int]],
    path: Path | str,
    reference: Path | str | None = None,
    prefill_chunk_size: int | None = None,
) -> Capture:
    """Run `model` once over each prompt and write everything that it computed to `path`; see `capture` for the file.

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

    Raises:
        OpensciError: when the reference is no capture, or does not hold the logits of the same tokens.

    """
    import torch

    against = None if reference is None else Capture(reference)
    with CaptureWriter(path, prompts, None if against is None else against.digest) as writer:
        for number, ids in enumerate(token_ids):
            logits = LogitsWriter(writer, number, np.asarray(ids, dtype=np.int64), against)
            row = torch.tensor([ids], device=model.device)
            with _watch(model, logits) as seen, torch.inference_mode():
                operations = trace(partial(_prefill, model, row, prefill_chunk_size))
            writer.stages = list(seen.fingerprints)
            logits.finish()
            writer.add(f"{number}.token_ids", logits.token_ids)
            writer.add(f"{number}.trace", np.frombuffer(encoded(operations), np.uint8))
            for name, pieces in seen.rope.items():
                writer.add(f"{number}.{name}", as_numpy(torch.cat(pieces)))
            writer.add(f"{number}.inv_freq", as_numpy(seen.inv_freq))
            writer.add(
                f"{number}.fingerprints", np.stack([np.concatenate(pieces) for pieces in seen.fingerprints.values()])
            )
    return Capture(path)


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
            for key, values in joined(self._compared).items():
                self._writer.add(f"{self._number}.{key}", values)


def _prefill(model: torch.nn.Module, ids: torch.Tensor, chunk_size: int | None) -> None:
    if chunk_size is None:
        model(ids, use_cache=False)
        return
    past = None
    for chunk in ids.split(chunk_size, dim=1):
        past = model(chunk, past_key_values=past, use_cache=True).past_key_values


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
def _watch(model: torch.nn.Module, logits: LogitsWriter) -> Generator[_Observed]:
    """Watch a forward pass through hooks: every module that returns (1, positions, features), and RoPE.

    Queries and keys after RoPE are no module's output. They are seen by wrapping the modelling
    file's `apply_rotary_pos_emb`, a name that all Llama-shaped models of transformers share.
    The language-model head computes `ROWS` positions at a time, gives them to `logits` and returns none:
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
        for rows in hidden_states.split(ROWS, dim=1):
            piece = compute(rows)[0]
            seen.see(inside[-1], piece)
            logits.take(as_numpy(piece))
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
    short = len(logits.token_ids) <= ROWS
    try:
        with tqdm(desc="forward pass", unit=" modules", disable=short) as progress:
            yield seen
    finally:
        del head.forward
        if rotate is not None:
            source.apply_rotary_pos_emb = rotate
        for handle in handles:
            handle.remove()
