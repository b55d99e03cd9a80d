"""Prompts: texts, or files that hold them."""

from __future__ import annotations

from pathlib import Path

from opensci_lib.errors import OpensciError


def read_prompt(prompt: str) -> str:
    """Return the text of a .txt file, or the prompt itself where it is none.

    Raises:
        OpensciError: when there is no such file, or it holds no text.

    """
    if prompt != prompt.encode("utf-8", "ignore").decode():
        raise OpensciError(f"The prompt {prompt[:40]!r} holds half of a surrogate pair, which is no text: mend it.")
    if not prompt.endswith(".txt"):
        return prompt
    try:
        return Path(prompt).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise OpensciError(
            f"There is no file {prompt}: give its path, or a prompt that does not end in .txt."
        ) from error
    except (OSError, ValueError) as error:  # a folder, a name that none can have, other bytes than UTF-8
        raise OpensciError(f"{prompt} can't be read as text in UTF-8: give another file.") from error


def check_length(prompt: str, count: int, limit: int) -> None:
    """Make sure that a prompt has between 1 and `limit` tokens; it has `count`.

    Raises:
        OpensciError: when it has not.

    """
    if not 1 <= count <= limit:
        raise OpensciError(
            f"The prompt {prompt[:40]!r} has {count} tokens and the model takes 1 to {limit}: give another prompt."
        )
