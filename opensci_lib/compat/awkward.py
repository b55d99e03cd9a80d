"""A hundred strings that trip tokenizers."""

from __future__ import annotations

import json
from typing import Any

import torch

_PIECES = [
    "a", "Zürich", "naïve café", "e\u0301a\u0308", "한국어", "日本語です", "中文字符",
    "العربية لغة", "עברית", "ไทย", "हिन्दी",
    "👍", "👩‍👩‍👧‍👦", "🇪🇺",
    "x²+y₃≠½", "∑∫√", "def f(x):\n\treturn x**2", "{\"a\": [1, 2.5e-3]}", "<|endoftext|>", "<b>bold</b>",
    "don't can't we'll", "1234567890", "3.14159", "0x1F", "https://example.org/a?b=c&d=%20", "snake_case camelCase",
]  # fmt: skip
_SPACES = ["", " ", "  ", "\t", "\n", "\n\n", " \n ", "\r\n", "\u00a0", "\u200b", "\u3000", "     "]


def strings() -> list[str]:
    """Return a hundred strings: spaces of all kinds, scripts, code, special tokens inside text, very long words."""
    alone = [*_SPACES, *_PIECES, "supercalifragilistic" * 60, "ab" * 500, "A" * 300, "\ufffd\u0000\u001f", "¿?!…—“”"]
    glued = [_PIECES[i % 26] + _SPACES[i % 12] + _PIECES[(7 * i + 3) % 26] for i in range(100 - len(alone))]
    return alone + glued


def encoded(tokenizer: Any) -> torch.Tensor:
    """Return [ids, decoded text] of each string as JSON in UTF-8, uint8 (bytes)."""
    rows = [[(ids := tokenizer(text)["input_ids"]), tokenizer.decode(ids)] for text in strings()]
    return torch.tensor(list(json.dumps(rows).encode()), dtype=torch.uint8)


def decoded(tensor: torch.Tensor) -> list[list]:
    """Return the rows that `encoded` wrote."""
    return json.loads(bytes(tensor.tolist()))
