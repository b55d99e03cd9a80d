"""What the library has to say about the model's own code: nothing."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from typing import Any
from unittest.mock import patch

import transformers

from opensci_lib.compat import feature, native
from opensci_lib.compat.case import TEXTS, Case, expect_equal, greedy


def _life(case: Case) -> None:
    """What anyone does with a model."""
    case.tokenizer(TEXTS, padding=False)
    model = case.load()
    for ids in case.ids:
        model(ids, labels=ids)
        model(ids, output_hidden_states=True)
        greedy(case, ids, model=model)
    folder = case.place("life")
    model.save_pretrained(folder)
    case.tokenizer.save_pretrained(folder)
    Case(folder, case.work / "again", case.native).load()
    model.train()
    model.gradient_checkpointing_enable()
    model(ids, labels=ids, use_cache=False).loss.backward()
    greedy(case, ids, model=model.eval(), cache_implementation="static")


def _messages(case: Case) -> dict[str, str]:
    """Return {message: where it came from} of all warnings while a model lives."""
    heard: dict[str, str] = {}

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard[record.getMessage()] = record.pathname

    logger, listener = logging.getLogger("transformers"), Listener(logging.WARNING)
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.WARNING)
    # Some messages are given once a process: forget that they were.
    forget: Any = logging.Logger.warning_once  # ty: ignore[missing-attribute]
    forget.cache_clear()
    case.__dict__.pop("tokenizer", None)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _life(case)
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
    return heard | {str(warning.message): warning.filename for warning in caught}


@feature("no warning that a native model does not get too")
def silence(case: Case) -> None:
    ours = _messages(case)
    theirs = _messages(next(iter(native.cases(case.work / "native").values())))
    own = {message: where for message, where in ours.items() if message not in theirs}
    expect_equal([message.splitlines()[0] for message in own], [], "messages")


@feature("no question on standard input")
def questions(case: Case) -> None:
    class Deaf(io.StringIO):
        def readline(self, *args: object) -> str:
            raise AssertionError("something was read from standard input")

    with patch.object(sys, "stdin", Deaf()), patch("builtins.input", Deaf().readline):
        _life(case)
        transformers.AutoConfig.from_pretrained(case.folder, trust_remote_code=True)
        transformers.AutoTokenizer.from_pretrained(case.folder, trust_remote_code=True)
