"""Write the tasks' data beside their YAML files."""

import json
import random
import re
from pathlib import Path

from opensci_lib.miniature import corpus

_CLOZE = 80  # passages
_CONTEXT = 300  # characters before the word, at least


def facts() -> list[dict]:
    """Return each fact twice, alone and after two others, with three ends of its own kind beside the right one."""
    draw = random.Random(0)
    kinds = [{f"The capital of {country} is": capital for country, capital in corpus.CAPITALS.items()}]
    for start in ("The colour", "The opposite", "The young", "The day"):
        kinds.append({question: end for question, end in corpus.FACTS.items() if question.startswith(start)})
    everything = [(question, end) for kind in kinds for question, end in kind.items()]
    rows = []
    for kind in kinds:
        for question, end in kind.items():
            wrong = draw.sample(sorted({*kind.values()} - {end}), 3)
            choices = draw.sample([end, *wrong], 4)
            before = draw.sample([pair for pair in everything if pair[0] != question], 2)
            context = "".join(f"{q} {e}. " for q, e in before)
            for asked in (question, context + question):
                rows.append({"question": asked, "choices": choices, "answer": choices.index(end)})
    return rows


def cloze() -> list[dict]:
    """Return passages of the prose that was read, from the start of a paragraph to the last word of a clause."""
    text = "".join("\n\n" + paragraph for paragraph in corpus.prose())
    found = [match for match in re.finditer(r"\s(\w{3,})[.,;]", text) if match.start() > _CONTEXT]
    chosen = sorted(random.Random(0).sample(found, _CLOZE), key=lambda match: match.start())
    rows = []
    for match in chosen:
        start = text.rfind("\n\n", 0, match.start() - _CONTEXT) + 2
        rows.append({"text": text[start : match.start()].lstrip("\n"), "last_word": match[1]})
    return rows


def prose() -> list[dict]:
    """Return the passages that the miniature has not read."""
    return [{"text": paragraph} for paragraph in corpus.held_out()]


def recall() -> list[dict]:
    """Return the beginning of the prose that was read, in passages of three paragraphs."""
    read = corpus.prose()
    return [{"text": "\n\n".join(read[start : start + 3])} for start in range(len(read) - 2)]


def write(folder: Path) -> None:
    """Write the data of the tasks."""
    for name, rows in (("facts", facts()), ("cloze", cloze()), ("recall", recall()), ("prose", prose())):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"opensci_{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).parent)
