"""The tokenizer: the same ids and the same text on every release."""

from tokenizers import Tokenizer

from opensci_lib.compat import awkward, feature
from opensci_lib.compat.case import TEXTS, Case, expect_equal


@feature("a hundred awkward strings: ids as tokenizer.json has them")
def ids(case: Case) -> None:
    right = Tokenizer.from_file(str(case.folder / "tokenizer.json"))
    for text in awkward.strings():
        expect_equal(case.tokenizer(text)["input_ids"], right.encode(text).ids, f"ids of {text[:40]!r}")


@feature("a hundred awkward strings: ids and decoded text as on {reference}")
def round_trip(case: Case) -> None:
    found = awkward.decoded(awkward.encoded(case.tokenizer))
    right = case.reference("tokenizer")
    expected = found if right is None else awkward.decoded(right)
    for text, row, expected_row in zip(awkward.strings(), found, expected, strict=True):
        expect_equal(row, expected_row, f"ids and decoded text of {text[:40]!r}")


@feature("padding_side left and right")
def padding(case: Case) -> None:
    case.tokenizer.pad_token = case.tokenizer.eos_token
    alone = [case.tokenizer(text)["input_ids"] for text in TEXTS]
    width = max(map(len, alone))
    pad = case.tokenizer.pad_token_id
    for side in ("left", "right"):
        case.tokenizer.padding_side = side
        batch = case.tokenizer(TEXTS, padding=True)
        for row, mask, right in zip(batch["input_ids"], batch["attention_mask"], alone, strict=True):
            filler = width - len(right)
            expect_equal(row, [pad] * filler + right if side == "left" else right + [pad] * filler, f"{side} row")
            ones, zeros = [1] * len(right), [0] * filler
            expect_equal(mask, zeros + ones if side == "left" else ones + zeros, f"{side} mask")


@feature("model_input_names: what generate() accepts")
def input_names(case: Case) -> None:
    expect_equal(list(case.tokenizer(TEXTS[0])), ["input_ids", "attention_mask"], "what the tokenizer returns")
    inputs = case.tokenizer(TEXTS[0], return_tensors="pt")
    case.model.generate(**inputs, max_new_tokens=2, do_sample=False, pad_token_id=0)
