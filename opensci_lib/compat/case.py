"""A model folder under test, and the means to state what is expected of it."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open

from opensci_lib.model_folder import write_json
from opensci_lib.runs.loading import dtype_argument, poison
from opensci_lib.runs.tensors import bits

#: What the models read: short, a sentence, and a row long enough to repeat itself.
TEXTS = [
    "The capital of France is",
    "The river rose in the night, and in the morning the bridge was gone.",
    "one two three one two three one two three one two three one two",
]
NEW_TOKENS = 12


class UnexpectedError(AssertionError):
    """What came out is not what a feature's check expects."""


class Case:
    """A model folder, loaded in the ways that the checks need; its own or the release's code."""

    def __init__(
        self,
        folder: Path,
        work: Path,
        native: bool = False,
        reference: Path | None = None,
        is_reference: bool = False,
    ):
        self.folder = folder
        self.native = native
        self.is_reference = is_reference
        self._work = work
        self._reference = reference

    @cached_property
    def tokenizer(self) -> Any:
        """The folder's tokenizer."""
        return transformers.AutoTokenizer.from_pretrained(self.folder, trust_remote_code=True)

    @cached_property
    def model(self) -> Any:
        """The causal language model, float32 and SDPA, for checks that leave it as it is."""
        model = self.load()
        self._untouched = _state(model)
        return model

    @property
    def ids(self) -> list[torch.Tensor]:
        """The token ids of `TEXTS`, int64 (1, positions) each."""
        return [torch.tensor([self.tokenizer(text)["input_ids"]]) for text in TEXTS]

    @property
    def work(self) -> Path:
        """An empty folder of this check's own."""
        self._work.mkdir(parents=True, exist_ok=True)
        return self._work

    def place(self, name: str) -> Path:
        """Return where in `work` to put another folder of this model.

        transformers knows a folder's code by the folder's name, and what one has registered serves all of that name.
        """
        return self.work / f"{self.folder.name}-{name}"

    @contextmanager
    def fresh(self) -> Generator[None]:
        """Give a check an empty `work`, the same random numbers and a model that no other changed."""
        shutil.rmtree(self._work, ignore_errors=True)
        torch.manual_seed(0)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)  # a load that fails midway leaves its own
            if "model" in self.__dict__ and _state(self.model) != self._untouched:
                del self.model

    def load(self, auto: str = "AutoModelForCausalLM", dtype: str = "float32", **options: Any) -> Any:
        """Load the folder through an Auto class, in evaluation mode, into memory that holds garbage."""
        poison()
        options = {dtype_argument(): getattr(torch, dtype), "attn_implementation": "sdpa", **options}
        loaded = getattr(transformers, auto).from_pretrained(self.folder, trust_remote_code=True, **options)
        return (loaded[0].eval(), loaded[1]) if isinstance(loaded, tuple) else loaded.eval()

    def config(self, **changes: Any) -> Any:
        """Return the folder's configuration with changes, made as a user would: in its config.json."""
        return transformers.AutoConfig.from_pretrained(self.edited(**changes).folder, trust_remote_code=True)

    def edited(self, **changes: Any) -> Case:
        """Return the same folder with changes to its config.json."""
        folder = self.place(f"edited-{len(list(self.work.iterdir()))}")
        shutil.copytree(self.folder, folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        write_json(folder / "config.json", {**config, **changes})
        return Case(folder, folder / "work", self.native)

    def random(self, **changes: Any) -> Any:
        """Return a model with random weights, of the folder's configuration with changes."""
        poison()
        config = self.config(**changes)
        config._attn_implementation = "sdpa"
        torch.manual_seed(0)
        options = {} if self.native else {"trust_remote_code": True}
        model = transformers.AutoModelForCausalLM.from_config(config, **options).float().eval()
        with torch.no_grad():  # biases and norms start at 0 and 1, where mistakes with them would not show
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        return model

    def reference(self, name: str) -> torch.Tensor | None:
        """Return what the reference computed under this name.

        None for a native model, which has no reference, and of what the reference itself fails.
        """
        if self._reference is None:
            return None
        with safe_open(self._reference, framework="pt") as tensors:
            lacking = json.loads(tensors.metadata()["lacking"])
            if name in lacking or f"{name.partition(' cache ')[0]} cache" in lacking:
                return None
            return tensors.get_tensor(name)


def _state(model: Any) -> tuple:
    """Return what tells whether a check has changed a model: versions of its tensors, mode, configuration."""
    # In-place operations count up a tensor's version.
    versions = [(id(tensor), tensor._version) for tensor in model.state_dict(keep_vars=True).values()]
    frozen = [parameter.requires_grad for parameter in model.parameters()]
    return versions, frozen, model.training, model.config.to_json_string(use_diff=False)


@contextmanager
def surroundings() -> Generator[None]:
    """Compute on one thread, without the library's messages and progress bars (`messages` has a check of those).

    A product over many threads is summed in another order, so that even one release would not equal itself.
    """
    logger = logging.getLogger("transformers")
    level, threads = logger.level, torch.get_num_threads()
    logger.setLevel(logging.CRITICAL)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        logger.setLevel(level)
        transformers.utils.logging.enable_progress_bar()
        torch.set_num_threads(threads)


def expect(condition: Any, otherwise: str) -> None:
    """Raise `UnexpectedError` with a sentence unless the condition holds."""
    if not condition:
        raise UnexpectedError(otherwise)


def expect_equal(found: Any, expected: Any, what: str) -> None:
    """Expect the same value; of tensors, the same shape, dtype and bits: NaN is NaN, and -0.0 is not 0.0."""
    if not isinstance(expected, torch.Tensor):
        expect(found == expected, f"{what}: {found!r} is not {expected!r}")
        return
    expect(found.shape == expected.shape, f"{what}: shape {tuple(found.shape)}, not {tuple(expected.shape)}")
    expect(found.dtype == expected.dtype, f"{what}: {found.dtype}, not {expected.dtype}")
    if not torch.equal(bits(found), bits(expected)):
        difference = (found.double() - expected.double()).abs().max().item()
        raise UnexpectedError(f"{what}: not equal bit for bit, largest difference {difference:.3g}")


def expect_close(found: torch.Tensor, expected: torch.Tensor, what: str, atol: float = 1e-4) -> None:
    """Expect equality up to `atol`, where the order of the operations is not the same; NaN is close to nothing."""
    expect(found.shape == expected.shape, f"{what}: shape {tuple(found.shape)}, not {tuple(expected.shape)}")
    difference = (found.detach().double() - expected.detach().double()).abs().max().item()
    expect(difference <= atol, f"{what}: differs by {difference:.3g}")


def greedy(case: Case, ids: torch.Tensor, **options: Any) -> list[int]:
    """Return what `generate` appends to one row of ids, greedily unless told otherwise."""
    settings: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0, **options}
    model = settings.pop("model", None) or case.model
    mask = settings.pop("attention_mask", torch.ones_like(ids))
    return model.generate(ids, attention_mask=mask, **settings)[0, ids.shape[1] :].tolist()


@torch.no_grad()
def greedy_by_hand(case: Case, ids: torch.Tensor, model: Any = None) -> list[int]:
    """Return the greedy continuation computed without `generate` and without a KV cache."""
    model, tokens = model or case.model, []
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    while len(tokens) < NEW_TOKENS and not (tokens and tokens[-1] in ends):
        following = model(torch.cat([ids, torch.tensor([tokens], dtype=torch.int64)], 1), use_cache=False).logits[
            0, -1
        ]
        tokens.append(int(following.argmax()))
    return tokens


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor, **options: Any) -> torch.Tensor:
    """Return the logits of a plain forward pass, (batch, positions, vocabulary)."""
    return model(ids, **{"use_cache": False, **options}).logits
