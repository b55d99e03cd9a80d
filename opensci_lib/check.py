"""Say whether a model folder is right on the release that runs this, without any reference.

The folder's own code is run. What it must compute follows from the checkpoint, the configuration and itself: a
tensor is the checkpoint's, a buffer is what the configuration makes of it, and a cache, padding or a copy of the
folder change nothing.
"""

from __future__ import annotations

import json
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from opensci_lib.errors import OpensciError
from opensci_lib.hotfix import rules_that_know
from opensci_lib.model_folder import add_code, check_model_folder, read_config
from opensci_lib.runs.loading import check_release, dtype_argument, poison
from opensci_lib.runs.tensors import as_numpy, bits

if TYPE_CHECKING:
    import torch

#: What is checked, in this order; where the first fails, nothing else can be.
CHECKS = ("loads", "checkpoint", "buffers", "forward", "cache", "padding", "saving")
NEW_TOKENS = 8
#: How a fault begins that more packages would cure.
LACKING = "the code needs"
_MISSING = re.compile(r"packages that were not found in your environment: ([\w., -]+?)\. ")
_LENGTHS = (48, 13)  # of the rows that the model reads


@dataclass(frozen=True)
class Finding:
    """What came of one of `CHECKS`: `fault` is one line, empty where all is well."""

    check: str
    fault: str = ""
    #: Ids of the hotfix rules that know the fault.
    rules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """The outcome of `check`."""

    tf_version: str
    findings: list[Finding]
    #: What attention was computed by, or None where nothing was.
    attn_implementation: str | None = None
    #: Of a plain forward pass over the longer row, (positions, vocabulary), as computed; None where there was none.
    logits: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def is_right(self) -> bool:
        """Whether every check was made and found no fault."""
        return [finding.check for finding in self.findings if not finding.fault] == list(CHECKS)

    def as_json(self) -> dict[str, Any]:
        """Return all but the logits, as JSON holds it."""
        return {
            "tf_version": self.tf_version,
            "is_right": self.is_right,
            "attn_implementation": self.attn_implementation,
            "findings": [asdict(finding) for finding in self.findings],
        }


def check(
    model_path: Path | str,
    tf_version: str | None = None,
    dtype: str = "float32",
    attn_implementation: str | None = None,
) -> Report:
    """Load a folder of any causal language model twice, through its own code, and check what was loaded.

    Runs on the CPU, on one thread. Memory holds the weights twice at most.

    Args:
        model_path: a folder that `transformers` can load. A tokenizer is not needed.
        tf_version: the release that this process must hold; None is any.
        dtype: "auto", which is what config.json names, "float32", "bfloat16" or "float16". In float32 a mistake
            is told from rounding best.
        attn_implementation: "sdpa" or "eager"; None is what the release chooses.

    Raises:
        OpensciError: when the folder is not whole, holds no causal language model, or the release is another one.

    """
    folder = check_model_folder(model_path, tokenizer=False)
    _check_causal(folder)
    check_release(tf_version)

    import torch
    import transformers

    from opensci_lib.compat.case import surroundings

    options: dict[str, Any] = {dtype_argument(): dtype if dtype == "auto" else getattr(torch, dtype)}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    findings, logits = [], None
    quiet = warnings.catch_warnings(action="ignore")
    with surroundings(), quiet, tempfile.TemporaryDirectory(prefix="opensci-check-") as work:
        examined = _Examined(folder, options, Path(work))
        for name in CHECKS:
            fault = _fault(getattr(examined, name))
            findings.append(Finding(name, fault, rules_that_know(fault)))
            if name == "loads" and fault:
                break
        if examined.logits is not None:
            logits = as_numpy(examined.logits[0])
        torch.set_default_dtype(torch.float32)  # a load that fails midway leaves its own
    return Report(transformers.__version__, findings, examined.attention, logits)


def _check_causal(folder: Path) -> None:
    config = read_config(folder)
    names = config.get("architectures") or []
    if "AutoModelForCausalLM" not in config.get("auto_map", {}) and not any(
        name.endswith(("ForCausalLM", "LMHeadModel")) for name in names
    ):
        raise OpensciError(
            f"{folder}/config.json names no causal language model ({', '.join(names) or 'no architecture'}): "
            "nothing else can be checked."
        )


def _fault(examine: Callable[[], str | None]) -> str:
    """Return what a check found, in one line, or the error that it ended in."""
    try:
        return examine() or ""
    except Exception as error:  # a stranger's code may raise anything; that it does is what was found
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        return lacking(str(error)) or f"{type(error).__name__}: {line}"[:400]


def lacking(error: str) -> str:
    """Return in words which packages a model's code imports in vain, if that is what transformers says, or none."""
    found = _MISSING.search(error)
    return f"{LACKING} {found[1]}, which the environment lacks: add it with --with" if found else ""


class _Examined:
    """A folder, and a method for each of `CHECKS`, to be called in that order: each returns the first fault."""

    def __init__(self, folder: Path, options: dict[str, Any], work: Path):
        self._folder, self._options, self._work = folder, options, work
        self._remote = {"trust_remote_code": True} if read_config(folder).get("auto_map") else {}
        self._buffer_sizes: list[int] = []
        self.attention: str | None = None
        self.logits: torch.Tensor | None = None

    def loads(self) -> None:
        self._model, self._keys = self._load(self._folder)
        self._names = {name: shard for shard in _shards(self._folder) for name in _held(shard)}
        self.attention = self._model.config._attn_implementation
        vocabulary = self._model.get_input_embeddings().weight.shape[0]
        self._rows = [_row(length, vocabulary) for length in _LENGTHS]

    def checkpoint(self) -> str | None:
        model, missing, left_over = self._model, self._keys["missing_keys"], self._keys["unexpected_keys"]
        held = _in_the_checkpoints_names(model)
        differing = [name for name, tensor in _tensors(self._names) if not _is(held.get(name), tensor)]
        lost = [name for name in differing if name not in held]
        known = {held[name].data_ptr() for name in self._names if name in held}
        buffers = dict(model.named_buffers())
        new = [name for name, tensor in held.items() if tensor.data_ptr() not in known and name not in buffers]
        if differing and not lost:
            count = f"{len(differing)} of {len(self._names)}"
            return f"{_first(differing)} differs from the checkpoint, as do {count} in all"
        if lost or left_over:
            return f"{_first([*lost, *left_over])} is in the checkpoint and not in the model"
        if new or missing:
            return f"{_first([*new, *missing])} is not in the checkpoint and was initialised anew"
        return self._tying()

    def _tying(self) -> str | None:
        model = self._model
        says = read_config(self._folder).get(
            "tie_word_embeddings", getattr(model.config, "tie_word_embeddings", None)
        )
        head = model.get_output_embeddings()
        if says is None or head is None:
            return None
        tied = head.weight is model.get_input_embeddings().weight
        if tied == bool(says):
            return None
        return f"the configuration says tie_word_embeddings={says}, and the model's are {'' if tied else 'not '}tied"

    def buffers(self) -> str | None:
        self._buffers = _buffers(self._model, self._names)
        if not self._buffers:
            return None
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(self._folder, **self._remote)
        options = self._options
        if options[dtype_argument()] == "auto":
            options = {**options, dtype_argument(): self._model.dtype}
        built = _buffers(AutoModelForCausalLM.from_config(config, **self._remote, **options), self._names)
        for name, found in self._buffers.items():
            if name not in built:
                return f"{name} is not there when the model is built from its configuration"
            if not _is(found, built[name]):
                return (
                    f"{name} holds {_numbers(found)} where {_numbers(built[name])} belongs: it was left as "
                    "uninitialised memory after loading, or computed otherwise than at construction"
                )
        return None

    def forward(self) -> str | None:
        import torch

        before = torch.random.get_rng_state()
        logits = [self._logits(row) for row in self._rows]
        draws = not torch.equal(before, torch.random.get_rng_state())
        self.logits = logits[0]
        if not all(row.isfinite().all() for row in logits):
            return "the logits are not finite"
        same = all(_is(self._logits(row), found) for row, found in zip(self._rows, logits, strict=True))
        if not same:
            return "a second forward pass gives other logits" + (": the model draws random numbers" if draws else "")
        return None

    def cache(self) -> str | None:
        for row in self._rows:
            self._cached = self._generated([row], use_cache=True)[0]
            if parted := _parting(self._cached, self._generated([row], use_cache=False)[0]):
                return f"greedy decoding with the KV cache {parted} without it"
        return None

    def padding(self) -> str | None:
        long, short = self._rows
        alone = self._generated([short], use_cache=True)[0]
        if parted := _parting(self._generated([long, short], use_cache=True)[1], alone):
            return f"a left-padded row {parted} alone"
        return None

    def saving(self) -> str | None:
        """Save, load again, and load the folder itself a second time; the model of the first load goes."""
        saved = self._work / f"{self._folder.name}-saved"  # transformers knows a folder's code by its name
        logits = [self._logits(row) for row in self._rows]
        try:
            self._model.save_pretrained(saved)
        finally:
            del self._model
        again, _ = self._load(self._folder)
        for name, buffer in _buffers(again, self._names).items():
            if not _is(buffer, self._buffers.get(name)):
                return f"{name} holds other numbers after a second load"
        if not all(_is(self._logits(row, again), found) for row, found in zip(self._rows, logits, strict=True)):
            return "a second load gives other logits"
        del again
        left_out = None
        try:
            reloaded, _ = self._load(saved)
        except OSError as error:  # that of code which was not saved; the rest is looked at all the same
            left_out = error
            add_code(self._folder, saved)
            reloaded, _ = self._load(saved)
        if not all(_is(self._logits(row, reloaded), found) for row, found in zip(self._rows, logits, strict=True)):
            return "what save_pretrained wrote gives other logits"
        if left_out:
            raise left_out
        return None

    def _load(self, folder: Path) -> tuple[Any, dict[str, Any]]:
        from transformers import AutoModelForCausalLM

        poison(self._buffer_sizes)
        model, keys = AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, **self._remote, **self._options
        )
        self._buffer_sizes = [buffer.numel() for buffer in model.buffers()]
        return model.eval(), keys

    def _logits(self, row: list[int], model: Any = None) -> torch.Tensor:
        """Return the logits of a plain forward pass, (1, positions, vocabulary)."""
        import torch

        with torch.no_grad():
            return (model or self._model)(input_ids=torch.tensor([row]), use_cache=False).logits

    def _generated(self, rows: list[list[int]], use_cache: bool) -> list[torch.Tensor]:
        """Return of each row the logits of the tokens that greedy decoding appends, (tokens, vocabulary)."""
        import torch
        from transformers import GenerationConfig

        width = max(map(len, rows))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        # The folder's own settings may sample, and may end early.
        self._model.generation_config = GenerationConfig(pad_token_id=0)
        output = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            use_cache=use_cache,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return list(torch.stack(output.logits, dim=1))


def _parting(found: torch.Tensor, expected: torch.Tensor) -> str | None:
    """Say where the logits of two greedy decodings, (tokens, vocabulary), part by more than rounding.

    The square root of the dtype's precision, of the largest logit, is no rounding. After two tokens so close that
    rounding chose between them, nothing is left to compare.
    """
    import torch

    for token, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        allowed = torch.finfo(theirs.dtype).eps ** 0.5 * theirs.abs().max().item()
        difference = (ours.double() - theirs.double()).abs().max().item()
        if not difference <= allowed:
            return f"has logits that differ by {difference:.3g} at new token {token} from those"
        if ours.argmax() != theirs.argmax():
            return None
    return None


def _row(length: int, vocabulary: int) -> list[int]:
    """Return token ids spread over the vocabulary, the same on any release; 0 is not among them."""
    return [1 + (7919 * (place + 1) + 31 * place * place) % (vocabulary - 1) for place in range(length)]


def _in_the_checkpoints_names(model: Any) -> dict[str, torch.Tensor]:
    """Return the model's tensors under the names that its checkpoint has for them.

    From 5.0 on native models may hold a checkpoint's tensors renamed or stacked, and know the way back.
    """
    held = dict(model.state_dict(keep_vars=True))
    if not getattr(model, "_weight_conversions", None):
        return held
    from transformers.core_model_loading import revert_weight_conversion

    return revert_weight_conversion(model, held)


def _buffers(model: Any, names: dict[str, Path]) -> dict[str, torch.Tensor]:
    """Return copies of the buffers that a checkpoint of these names lacks."""
    return {name: buffer.detach().clone() for name, buffer in model.named_buffers() if name not in names}


def _shards(folder: Path) -> list[Path]:
    """Return the files that transformers takes the weights from: one, or else all that the index names."""
    whole = folder / "model.safetensors"
    if whole.exists():
        return [whole]
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    return sorted({folder / shard for shard in index["weight_map"].values()})


def _held(shard: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(shard, framework="pt") as tensors:
        return list(tensors.keys())


def _tensors(names: dict[str, Path]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the checkpoint's tensors, each with its name."""
    from safetensors import safe_open

    for shard in dict.fromkeys(names.values()):
        with safe_open(shard, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  a safetensors file is no dictionary
                yield name, tensors.get_tensor(name)


def _is(found: torch.Tensor | None, expected: torch.Tensor | None) -> bool:
    """Say whether a tensor holds the bits that were expected, cast to its own dtype as loading casts."""
    import torch

    if found is None or expected is None or found.shape != expected.shape:
        return False
    return torch.equal(bits(found), bits(expected.to(found.dtype)))


def _numbers(values: torch.Tensor) -> str:
    return "[" + ", ".join(f"{value:.3g}" for value in values.flatten()[:3].tolist()) + ", …]"


def _first(names: list[str]) -> str:
    return sorted(names)[0]
