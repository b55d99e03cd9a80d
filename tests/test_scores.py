"""What is said of evaluations: two small ones written out, varied by one thing at a time."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from opensci_lib.errors import OpensciError
from opensci_lib.reports import scores

ROOT = Path(__file__).parents[1]
NAN = float("nan")
SHOTS = {"facts": 2, "recall": 0}
SETTINGS = {"dtype": "float32", "device": "cpu", "batch_size": 8, "limit": None}
PROVENANCE = {"model": "miniature", "revision": None, "commit": None}
VERSIONS = {"torch": "2.13.0", "lm-eval": "0.4.13"}
#: -log p of the tokens of the two texts of "recall".
NATS = [[1.0, 0.5], [2.0]]
TEXTS = ["one two", "three"]
MINIMAL = {"answers": "BBBaa", "nats": [[1.5, 0.5], [4.0]]}
#: What is the same in all rows of a table about a run that equals the reference.
EQUAL = {"difference": 0.0, "low": 0.0, "high": 0.0, "largest_change": 0.0, "equal": True, "settings": ""}


def facts(answers="aBaaa"):
    """Five questions; the right answer is " a" throughout, and a capital letter is one given with another certainty.

    An answer of " a" has log-likelihoods -1 and -2, one of " b" -3.5 and -1.
    """
    return pd.DataFrame(
        {
            "task": "facts",
            "doc_id": range(5),
            "text": [f"Question {i}?" for i in range(5)],
            "target": " a",
            "choices": [[" a", " b"]] * 5,
            "loglikelihoods": [[-1.0, -2.0] if answer == "a" else [-3.5, -1.0] for answer in answers],
            "prediction": [f" {answer.lower()}" for answer in answers],
            "correct": [float(answer == "a") for answer in answers],
        }
    )


def recall(nats=NATS, texts=TEXTS):
    """Texts as the harness scores them, whole, and the positions of their tokens."""
    samples = pd.DataFrame(
        {
            "task": "recall",
            "doc_id": range(len(nats)),
            "text": texts,
            "target": "",
            "choices": [[] for _ in nats],
            "loglikelihoods": [[-sum(tokens)] for tokens in nats],
            "prediction": "",
            "correct": NAN,
        }
    )
    rows = [
        ("recall", doc_id, position, value)
        for doc_id, tokens in enumerate(nats)
        for position, value in enumerate(tokens)
    ]
    return samples, pd.DataFrame(rows, columns=["task", "doc_id", "position", "nats"])


def write(folder, run, answers="aBaaa", nats=NATS, shots=SHOTS, edit=None, model_dtype="torch.float32", **run_record):
    """Write an evaluation by hand; `edit` changes the tables of samples and positions before that."""
    rolling, positions = recall(nats)
    samples = pd.concat([facts(answers), rolling], ignore_index=True)
    if edit:
        samples, positions = edit(samples, positions)
    path = folder / run
    path.mkdir(parents=True, exist_ok=True)
    samples.to_parquet(path / "samples.parquet", index=False)
    positions.to_parquet(path / "positions.parquet", index=False)
    release, variant = run.split("/")
    record = {**SETTINGS, **PROVENANCE, "variant": variant, "versions": {"transformers": release, **VERSIONS}}
    results = {"n-shot": shots, "config": {"model_dtype": model_dtype}, "run": {**record, **run_record}}
    (path / "eval.json").write_text(json.dumps(results))
    return scores.Evaluation(path, release, variant)


def shuffled(samples, positions):
    """All rows the other way round."""
    return samples.iloc[::-1], positions.iloc[::-1]


@pytest.fixture
def reference(tmp_path):
    return write(tmp_path, "4.48.0/original")


def refusal(function, *arguments):
    with pytest.raises(OpensciError) as caught:
        function(*arguments)
    return str(caught.value)


def test_the_table_of_an_equal_run(reference, tmp_path):
    table = scores.score_table(reference, [write(tmp_path, "5.2.0/fixed")])
    key = {"tf_version": "5.2.0", "variant": "fixed"}
    accuracy = {"task": "facts", "metric": "accuracy", "items": 5, "score": 0.8, "reference": 0.8}
    tokens = {"task": "recall", "metric": "nats per token", "items": 3, "score": 3.5 / 3, "reference": 3.5 / 3}
    expected = pd.DataFrame(
        [
            # Deviations from 0.8: four of 0.2 and one of 0.8, squared 0.8 in all.
            {**key, **accuracy, **EQUAL, "standard_error": np.sqrt(0.8 / 4 / 5), "agreement": 1.0, "p_value": 1.0},
            # Deviations from 7/6: 1/6, 4/6, 5/6, squared 42/36 in all.
            {**key, **tokens, **EQUAL, "standard_error": np.sqrt(42 / 36 / 2 / 3), "agreement": NAN, "p_value": NAN},
        ]
    ).assign(changed=pd.array([0, None], dtype="Int64"))
    pd.testing.assert_frame_equal(table, expected[table.columns])
    assert sorted(table.columns) == sorted(expected.columns)


@pytest.mark.parametrize("edit", [None, shuffled])
def test_the_table_of_a_run_that_lost_points(reference, tmp_path, edit):
    """Two facts lost, and two tokens less likely; in whatever order the rows of its files come."""
    minimal = write(tmp_path, "5.2.0/minimal", **MINIMAL, edit=edit)
    table = scores.score_table(reference, [minimal])
    key = {"tf_version": "5.2.0", "variant": "minimal", "equal": False, "settings": ""}
    expected = pd.DataFrame(
        [
            {
                **key,
                "task": "facts",
                "metric": "accuracy",
                "items": 5,
                "score": 0.4,
                "standard_error": np.sqrt(1.2 / 4 / 5),
                "reference": 0.8,
                "difference": -0.4,
                "low": -0.8,  # of 5 resampled items, 4 or more are lost with 8.7 %, all 5 with 1.0 %
                "high": 0.0,  # none with 7.8 %
                "agreement": 0.6,
                "p_value": 0.5,  # 2 / 2^2
                "largest_change": 2.5,
            },
            {
                **key,
                "task": "recall",
                "metric": "nats per token",
                "items": 3,
                "score": 2.0,
                "standard_error": np.sqrt((0.25 + 2.25 + 4) / 2 / 3),
                "reference": 3.5 / 3,
                "difference": 2.5 / 3,
                "low": 0.0,  # three times the token that has not changed: 1 of 27, 3.7 %
                "high": 2.0,  # three times the one that has changed most: 3.7 %
                "agreement": NAN,
                "p_value": NAN,
                "largest_change": 2.0,
            },
        ]
    ).assign(changed=pd.array([2, None], dtype="Int64"))
    pd.testing.assert_frame_equal(table, expected[table.columns])


def test_every_run_is_compared_with_the_reference(reference, tmp_path):
    runs = [write(tmp_path, "5.2.0/minimal", **MINIMAL), reference, write(tmp_path, "5.2.0/fixed")]
    table = scores.score_table(reference, runs)
    keys = ["tf_version", "variant", "task", "reference", "score", "equal"]
    assert table[table["task"] == "facts"][keys].to_numpy().tolist() == [
        ["5.2.0", "minimal", "facts", 0.8, 0.4, False],
        ["4.48.0", "original", "facts", 0.8, 0.8, True],
        ["5.2.0", "fixed", "facts", 0.8, 0.8, True],
    ]


def test_changed_items(reference, tmp_path):
    """Item 1 is answered wrongly on both sides, with the same letter: that is no change."""
    runs = [
        write(tmp_path, "5.2.0/fixed"),
        write(tmp_path, "5.2.0/minimal", **MINIMAL, edit=shuffled),
        write(tmp_path, "5.10.0/minimal", answers="aaaaa"),
    ]
    expected = pd.DataFrame(
        [
            ["facts", 0, "Question 0?", " a", " a", " b", "5.2.0", "minimal"],
            ["facts", 2, "Question 2?", " a", " a", " b", "5.2.0", "minimal"],
            ["facts", 1, "Question 1?", " a", " b", " a", "5.10.0", "minimal"],
        ],
        columns=["task", "doc_id", "text", "target", "prediction_reference", "prediction", "tf_version", "variant"],
    )
    pd.testing.assert_frame_equal(scores.changed_items(reference, runs), expected)


def test_paired_items_keep_the_references_order(reference, tmp_path):
    both = scores.paired(reference, write(tmp_path, "5.2.0/minimal", **MINIMAL, edit=shuffled))
    assert both["text"].tolist() == [*(f"Question {i}?" for i in range(5)), "token 0", "token 1", "token 0"]
    assert both["doc_id"].tolist() == [0, 1, 2, 3, 4, 0, 0, 1]
    assert both["target"].tolist() == [" a"] * 5 + ["one two", "one two", "three"]
    assert both["value_reference"].tolist() == [1, 0, 1, 1, 1, 1.0, 0.5, 2.0]
    assert both["value"].tolist() == [0, 0, 0, 1, 1, 1.5, 0.5, 4.0]
    assert list(both["loglikelihoods"].iloc[0]) == [-3.5, -1]
    assert list(both["loglikelihoods_reference"].iloc[0]) == [-1, -2]
    assert [list(nats) for nats in both["loglikelihoods"].iloc[5:]] == [[-1.5], [-0.5], [-4.0]]


def with_samples(**columns):
    """Return an edit that sets the first item's columns."""

    def edit(samples, positions):
        for name, value in columns.items():
            samples.at[0, name] = value
        return samples, positions

    return edit


OTHER_ITEMS = {
    "fewer": (lambda samples, positions: (samples.drop(4), positions), "4 items of facts", "5, 4 of"),
    "more": (
        lambda samples, positions: (pd.concat([samples, facts().tail(1).assign(doc_id=9)]), positions),
        "6 items of facts",
        "5, 5 of",
    ),
    "other number": (with_samples(doc_id=9), "5 items of facts", "5, 4 of"),
    "other text": (with_samples(text="Quite another?"), "5 items of facts", "5, 4 of"),
    "other answer": (with_samples(target=" b"), "5 items of facts", "5, 4 of"),
    "other order of choices": (with_samples(choices=[" b", " a"]), "5 items of facts", "5, 4 of"),
    "more choices": (with_samples(choices=[" a", " b", " c"]), "5 items of facts", "5, 4 of"),
    "fewer tokens": (lambda samples, positions: (samples, positions.drop(1)), "2 items of recall", "3, 2 of"),
    "other prose": (
        lambda samples, positions: (samples.replace({"text": {"one two": "one ten"}}), positions),
        "3 items of recall",
        "3, 1 of",
    ),
    "no item in common": (
        lambda samples, positions: (samples.replace(dict.fromkeys(TEXTS, "x")), positions),
        "3 items of recall",
        "3, 0 of",
    ),
    "no tokens at all": (
        lambda samples, positions: (samples, positions.assign(task="facts")[:0]),
        "2 items of recall",
        "3, 0 of",
    ),
}


@pytest.mark.parametrize("case", OTHER_ITEMS)
def test_other_items_are_refused(reference, tmp_path, case):
    edit, ours, right = OTHER_ITEMS[case]
    run = write(tmp_path, "5.2.0/fixed", edit=edit)
    said = (
        f"5.2.0/fixed has {ours} and 4.48.0/original has {right} them the same: "
        "evaluate both with the same limit and the same task files."
    )
    assert refusal(scores.score_table, reference, [run]) == said
    assert refusal(scores.changed_items, reference, [run]) == said


def without(task):
    def edit(samples, positions):
        return samples[samples["task"] != task], positions[positions["task"] != task]

    return {"edit": edit, "shots": {name: count for name, count in SHOTS.items() if name != task}}


@pytest.mark.parametrize("task", ["facts", "recall"])
def test_a_task_that_one_side_lacks_is_refused(reference, tmp_path, task):
    less = write(tmp_path, "5.2.0/fixed", **without(task))
    said = f"5.2.0/fixed was not evaluated on {task}, but 4.48.0/original was: evaluate both on the same tasks."
    assert refusal(scores.score_table, reference, [reference, less]) == said
    assert refusal(scores.score_table, less, [less, reference]) == said


@pytest.mark.parametrize(("task", "items"), [("facts", 3), ("recall", 5)])
def test_answers_alone_and_tokens_alone_are_compared(tmp_path, task, items):
    one, two = (write(tmp_path, run, **without(task)) for run in ("4.48.0/original", "5.2.0/fixed"))
    table = scores.score_table(one, [two])
    assert table[["items", "equal"]].to_numpy().tolist() == [[items, True]]


def test_another_number_of_examples_is_refused(reference, tmp_path):
    run = write(tmp_path, "5.2.0/fixed", shots={"facts": 2, "recall": 5})
    assert refusal(scores.score_table, reference, [run]) == (
        "5.2.0/fixed was evaluated on recall with 5 examples before each item, 4.48.0/original with 0: "
        "evaluate both with the same num_fewshot."
    )


BROKEN = {
    "tables of fewer tasks": {"edit": without("recall")["edit"]},
    "tables of more tasks": {"shots": {"facts": 2}},
    "no tasks": {"edit": lambda samples, positions: (samples[:0], positions[:0]), "shots": {}},
}


@pytest.mark.parametrize("case", BROKEN)
def test_tables_that_are_not_of_the_tasks_of_the_results_are_refused(reference, tmp_path, case):
    """As an evaluation leaves them that was broken off between writing the one and the other."""
    run = write(tmp_path, "5.2.0/fixed", **BROKEN[case])
    assert refusal(lambda: run.items) == (
        f"{run.path} holds an eval.json and tables that are not of the same tasks, or of none: "
        "evaluate 5.2.0/fixed again."
    )


TWICE = {
    "item": (lambda samples, positions: (pd.concat([samples, samples[2:3]]), positions), "item 2 of facts"),
    "token": (lambda samples, positions: (samples, pd.concat([positions, positions[2:]])), "item 1 of recall"),
    "text": (lambda samples, positions: (pd.concat([samples, samples[6:]]), positions), "item 1 of recall"),
}


@pytest.mark.parametrize("case", TWICE)
def test_an_item_that_stands_there_twice_is_refused(tmp_path, case):
    edit, item = TWICE[case]
    run = write(tmp_path, "5.2.0/fixed", edit=edit)
    assert refusal(lambda: run.items) == f"{run.path} holds {item} twice: evaluate 5.2.0/fixed again."


def test_items_of_two_tasks_may_share_number_and_text(tmp_path):
    """Also items of one task that differ in one of the two."""

    def edit(samples, positions):
        again = facts().assign(task="more facts")
        again.loc[1, "text"] = again.loc[0, "text"]
        again.loc[3, "doc_id"] = again.loc[2, "doc_id"]
        return pd.concat([samples, again]), positions

    shots = {**SHOTS, "more facts": 0}
    right = write(tmp_path, "4.48.0/original", edit=edit, shots=shots)
    run = write(tmp_path, "5.2.0/minimal", answers="aaaaa", edit=edit, shots=shots)
    table = scores.score_table(right, [run]).set_index("task")
    assert table["items"].to_dict() == {"facts": 5, "more facts": 5, "recall": 3}
    assert table["score"].to_dict() == pytest.approx({"facts": 1, "more facts": 0.8, "recall": 3.5 / 3})
    assert table["changed"].to_dict() == {"facts": 1, "more facts": 0, "recall": None}


@pytest.mark.parametrize(
    ("right", "ours", "equal"), [(None, NAN, False), (NAN, None, False), (NAN, NAN, True)], ids=str
)
def test_an_item_that_is_neither_right_nor_wrong_counts(tmp_path, right, ours, equal):
    edits = [None if value is None else with_samples(correct=value) for value in (right, ours)]
    one = write(tmp_path, "4.48.0/original", edit=edits[0])
    two = write(tmp_path, "5.2.0/fixed", edit=edits[1])
    table = scores.score_table(one, [two])
    row = table.loc[0]
    assert (row["items"], row["equal"]) == (5, equal)
    assert np.isnan([row["difference"], row["low"], row["high"], row["p_value"]]).all()
    assert (np.isnan(row["reference"]), np.isnan(row["score"])) == (right is not None, ours is not None)
    if right is None:
        assert in_words(table) == [["fixed", "facts", "1 of 1", "80 %", "NaN %", "NaN %", "nan", "points"]]


def test_nan_in_a_token_is_no_small_change(reference, tmp_path):
    run = write(tmp_path, "5.2.0/fixed", nats=[[1.0, NAN], [2.0]])
    table = scores.score_table(reference, [run])
    assert np.isnan(table.loc[1, ["score", "difference", "largest_change"]].astype(float)).all()
    assert table["equal"].tolist() == [True, False]
    assert in_words(table) == [["fixed", "recall", "1 of 1", "1.167 nats", "NaN nats", "NaN nats", "nan", "nats"]]


def test_one_bit_of_one_token_is_a_difference(reference, tmp_path):
    run = write(tmp_path, "5.2.0/fixed", nats=[[1.0, np.nextafter(0.5, 1)], [2.0]])
    table = scores.score_table(reference, [run])
    assert table["equal"].tolist() == [True, False]
    assert table.loc[1, "largest_change"] == 2**-53
    assert scores.verdict(table) == ["**fixed** differs on 1 of 1 releases."]
    [row] = in_words(table)
    assert row[:6] == ["fixed", "recall", "1 of 1", "1.167 nats", "1.167 nats", "1.167 nats"]


@pytest.mark.parametrize(
    ("other", "settings"),
    [
        ({"dtype": "bfloat16"}, "dtype bfloat16 instead of float32"),
        ({"model_dtype": "torch.float16"}, "model_dtype torch.float16 instead of torch.float32"),
        ({"attn_implementation": "eager"}, "attn_implementation eager instead of None"),
        ({"device": "cuda"}, "device cuda instead of cpu"),
        ({"batch_size": 4}, "batch_size 4 instead of 8"),
        ({"batch_size_used": {"facts": 4}}, "batch_size_used {'facts': 4} instead of None"),
        ({"limit": 100}, "limit 100 instead of None"),
        ({"too_long": "skip"}, "too_long skip instead of None"),
        ({"model": "org/name"}, "model org/name instead of miniature"),
        ({"revision": "main"}, "revision main instead of None"),
        ({"commit": "abc"}, "commit abc instead of None"),
        ({"versions": {**VERSIONS, "torch": "2.12.0"}}, "torch 2.12.0 instead of 2.13.0"),
        ({"versions": {**VERSIONS, "lm-eval": "0.4.12"}}, "lm-eval 0.4.12 instead of 0.4.13"),
        ({"limit": 100, "batch_size": 4, "dtype": "bfloat16"}, "dtype bfloat16 instead of float32, batch_size 4 "
         "instead of 8, limit 100 instead of None"),
        ({"model_path": "elsewhere", "weights": [], "versions": {**VERSIONS, "tokenizers": "0.22"}}, ""),
    ],
)  # fmt: skip
def test_other_settings_are_told(reference, tmp_path, other, settings):
    table = scores.score_table(reference, [write(tmp_path, "5.2.0/fixed", **other)])
    assert table["settings"].tolist() == [settings, settings]


def test_items_longer_than_the_context_are_told(reference, tmp_path):
    both = {"facts": 2, "recall": 1}
    runs = [
        reference,  # of an earlier version, which tells nothing
        write(tmp_path, "5.2.0/fixed", too_long="refuse", items_too_long={}),
        write(tmp_path, "5.2.0/minimal", too_long="skip", items_too_long=both),
        write(tmp_path, "5.10.0/fixed", too_long="skip", items_too_long={"facts": 2}),
        write(tmp_path, "5.10.0/minimal", too_long="truncate", items_too_long={"facts": 2}),
    ]
    long = "that are longer than the model's context"
    assert scores.too_long(runs) == [
        f"Items of facts {long} were left out: 2, in 2 of 5 runs.",
        f"Items of recall {long} were left out: 1, in 1 of 5 runs.",
        f"Items of facts {long} lost their beginning: 2, in 1 of 5 runs.",
    ]
    assert scores.too_long(runs[:2]) == []


def rows(run, facts=None, recall=None, settings=""):
    """Return two rows of a table: each task equal, or with (reference, score, p, changed), or (reference, score)."""
    release, variant = run.split("/")
    columns = {"tf_version": release, "variant": variant, "settings": settings}
    right, score, p, changed = facts or (0.975, 0.975, 1.0, 0)
    before, nats = recall or (0.5, 0.5)
    return [
        {**columns, "task": "facts", "metric": "accuracy", "items": 140, "reference": right, "score": score,
         "p_value": p, "changed": changed, "equal": facts is None},
        {**columns, "task": "recall", "metric": "nats per token", "items": 3000, "reference": before, "score": nats,
         "p_value": NAN, "changed": pd.NA, "equal": recall is None},
    ]  # fmt: skip


LOST = (0.975, 0.25, 1.23e-4, 7)
EXACTLY = (
    "scores exactly what the reference scores on {0} of {0} releases: every log-likelihood of 140 items and 3000 "
    "tokens is equal bit for bit."
)
VERDICTS = {
    "all equal": (
        [*rows("4.48.0/original"), *rows("4.57.6/original"), *rows("5.2.0/fixed")],
        [f"**original** {EXACTLY.format(2)}", f"**fixed** {EXACTLY.format(1)}"],
    ),
    "one task differs": (
        rows("5.2.0/fixed", facts=LOST),
        ["**fixed** differs on 1 of 1 releases."],
    ),
    "tokens alone differ": (
        rows("5.2.0/fixed", recall=(0.5, 0.5004)),
        ["**fixed** differs on 1 of 1 releases."],
    ),
    "both tasks differ, on one release of three": (
        [*rows("5.2.0/fixed"), *rows("5.10.0/fixed", facts=LOST, recall=(0.5, 6.25)), *rows("5.23.0/fixed")],
        ["**fixed** differs on 1 of 3 releases."],
    ),
    "several releases and variants": (
        [*rows("4.48.0/original"), *rows("5.2.0/minimal", facts=LOST), *rows("5.2.0/fixed"),
         *rows("5.10.0/minimal", recall=(0.5, 7.0)), *rows("5.10.0/fixed")],
        [
            f"**original** {EXACTLY.format(1)}",
            "**minimal** differs on 2 of 2 releases.",
            f"**fixed** {EXACTLY.format(2)}",
        ],
    ),
    "other settings where it differs": (
        [*rows("5.2.0/fixed", facts=LOST, settings="dtype bfloat16 instead of float32"), *rows("5.10.0/fixed")],
        ["**fixed** differs on 1 of 2 releases. 5.2.0 ran with dtype bfloat16 instead of float32."],
    ),
    "other settings where it is equal": (
        [*rows("5.2.0/fixed"), *rows("5.10.0/fixed", settings="batch_size 4 instead of 8")],
        [f"**fixed** {EXACTLY.format(2)} 5.10.0 ran with batch_size 4 instead of 8."],
    ),
    "accuracy alone": (
        rows("5.2.0/fixed")[:1],
        [f"**fixed** {EXACTLY.format(1)}".replace("3000", "0")],
    ),
    "tokens alone": (
        rows("5.2.0/fixed")[1:],
        [f"**fixed** {EXACTLY.format(1)}".replace("140", "0")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", VERDICTS)
def test_verdict(case):
    table, sentences = VERDICTS[case]
    assert scores.verdict(pd.DataFrame(table)) == sentences


def in_words(table):
    return scores.changes(table).map(str).to_numpy().tolist()


def test_changes_span_the_releases_that_differ():
    def row(release, variant, task, metric, score, reference):
        differs = score != reference
        return (release, variant, task, metric, score, reference, score - reference if differs else 0.0, not differs)

    columns = ["tf_version", "variant", "task", "metric", "score", "reference", "difference", "equal"]
    table = pd.DataFrame(
        [
            row("5.2.0", "minimal", "facts", "accuracy", 0.25, 0.9875),
            row("5.2.0", "fixed", "facts", "accuracy", 0.5, 0.5),
            row("5.3.0", "minimal", "facts", "accuracy", 0.9876, 0.9875),
            row("5.4.0", "minimal", "facts", "accuracy", 0.9875, 0.9875),
            row("5.2.0", "minimal", "prose", "nats per token", 2.5, 3.0),
            row("5.3.0", "minimal", "prose", "nats per token", 4.0, 3.0),
        ],
        columns=columns,
    )  # fmt: skip
    found = scores.changes(table)
    assert found.drop(columns="change").to_numpy().tolist() == [
        ["minimal", "facts", "2 of 3", "98.8 %", "25 %", "98.8 %", "points"],
        ["minimal", "prose", "2 of 2", "3 nats", "2.5 nats", "4 nats", "nats"],
    ]
    assert found["change"].tolist() == pytest.approx([-73.75, 1.0])  # the largest of either sign
    assert scores.changes(table[table["equal"]]).empty


def test_the_verdict_counts_the_items_of_all_tasks_once(reference, tmp_path):
    """And not once for each release."""
    runs = [write(tmp_path, f"{release}/fixed") for release in ("5.2.0", "5.10.0")]
    assert scores.verdict(scores.score_table(reference, runs)) == [
        "**fixed** scores exactly what the reference scores on 2 of 2 releases: "
        "every log-likelihood of 5 items and 3 tokens is equal bit for bit."
    ]


def test_of_another_backend_it_says_how_far_off_it_is(reference, tmp_path):
    def further(samples, positions):
        return samples, positions.assign(nats=positions["nats"] + 0.0015)

    table = scores.score_table(reference, [write(tmp_path, "5.2.0/vllm", edit=further)])
    assert scores.verdict(table) == [
        "**vllm** differs on 1 of 1 releases. Log-likelihoods changed by up to 0.0015 nats, and 0 predictions."
    ]


def one_item(text):
    """Return an edit that leaves one question, put in these words, and one token."""

    def edit(samples, positions):
        question = samples[samples["task"] == "facts"].head(1).assign(text=text)
        rolling = samples[samples["task"] == "recall"].tail(1)
        return pd.concat([question, rolling], ignore_index=True), positions.tail(1)

    return edit


def test_another_number_of_log_likelihoods_is_refused(reference, tmp_path):
    def shorter(samples, positions):
        return samples.assign(loglikelihoods=[row[:1] for row in samples["loglikelihoods"]]), positions

    assert refusal(scores.paired, reference, write(tmp_path, "5.2.0/fixed", edit=shorter)) == (
        "5.2.0/fixed and 4.48.0/original hold different numbers of log-likelihoods for item 0 of facts: "
        "evaluate both again."
    )


def test_one_item_that_is_another_is_refused(tmp_path):
    right, run = (
        write(tmp_path, name, edit=one_item(text))
        for name, text in (("4.48.0/original", "Which?"), ("5.2.0/fixed", "What?"))
    )
    assert refusal(scores.paired, right, run) == (
        "5.2.0/fixed has 1 items of facts and 4.48.0/original has 1, 0 of them the same: "
        "evaluate both with the same limit and the same task files."
    )


def test_tasks_stand_in_the_order_of_the_reference(tmp_path):
    def turned(samples, positions):
        return samples.assign(task=samples["task"].replace("facts", "z")), positions

    shots = {"z": 2, "recall": 0}
    runs = [write(tmp_path / "z", name, shots=shots, edit=turned) for name in ("4.48.0/original", "5.2.0/fixed")]
    assert scores.score_table(runs[0], runs[1:])["task"].tolist() == ["z", "recall"]


def test_one_task_alone_and_read_from_a_file_has_no_settings_to_tell(reference, tmp_path):
    table = scores.score_table(reference, [write(tmp_path, "5.2.0/minimal", **MINIMAL)])
    table[table["task"] == "recall"].to_csv(tmp_path / "evaluation.csv", index=False)
    read = pd.read_csv(tmp_path / "evaluation.csv", dtype={"tf_version": str})
    assert scores.verdict(read) == ["**minimal** differs on 1 of 1 releases."]


def test_a_table_that_was_written_and_read_again_says_the_same(reference, tmp_path):
    runs = [write(tmp_path, "5.2.0/minimal", **MINIMAL, dtype="bfloat16"), write(tmp_path, "5.2.0/fixed")]
    table = scores.score_table(reference, runs)
    table.to_csv(tmp_path / "evaluation.csv", index=False)
    again = pd.read_csv(tmp_path / "evaluation.csv", dtype={"tf_version": str})
    assert scores.verdict(again) == scores.verdict(table)
    ran = " 5.2.0 ran with dtype bfloat16 instead of float32."
    without_settings = [said.replace(ran, "") for said in scores.verdict(table)]
    assert without_settings != scores.verdict(table)
    assert scores.verdict(again.drop(columns="settings")) == without_settings


RUNS = ["4.9.0/original", "4.48.0/original", "4.48.0/minimal", "4.48.0/fixed", "5.2.0/fixed", "5.10.0/minimal"]


@pytest.fixture
def computed(tmp_path):
    """A folder of runs that were all computed, some of them evaluated."""
    for run in reversed(RUNS):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "run.json").touch()
    return tmp_path


def evaluated(folder, runs):
    for run in runs:
        (folder / run / "eval.json").write_text("{}")


def test_evaluations_are_found_in_the_order_of_their_releases(computed):
    evaluated(computed, RUNS)
    found = scores.find_evaluations(computed)
    assert [run.name for run in found] == RUNS
    assert [(run.path, run.tf_version, run.variant) for run in found] == [
        (computed / run, *run.split("/")) for run in RUNS
    ]
    assert scores.find_evaluations(computed, ["5.10.0/minimal", "4.9.0/original", "5.10.0/minimal"]) == [
        found[0],
        found[-1],
    ]
    assert scores.not_evaluated(computed) == []


def test_a_run_that_was_not_evaluated_is_told(computed):
    evaluated(computed, ["4.48.0/original"])
    assert [run.name for run in scores.find_evaluations(computed)] == ["4.48.0/original"]
    assert scores.not_evaluated(computed) == [
        "Not evaluated: 4.9.0/original, 4.48.0/minimal, 4.48.0/fixed, 5.2.0/fixed, 5.10.0/minimal."
    ]


def test_an_evaluation_that_is_named_and_not_there_is_refused(computed):
    evaluated(computed, ["4.48.0/original"])
    assert refusal(scores.find_evaluations, computed, ["4.48.0/original", "5.2.0/fixed"]) == (
        f"{computed}/5.2.0/fixed has no eval.json: run `snakemake` first, which computes it."
    )


def test_an_evaluation_that_failed_is_left_out_and_told(computed):
    evaluated(computed, RUNS[1:])
    (computed / "5.2.0/fixed/eval.json").write_text('{"variant": "fixed", "error": "Memory does not suffice."}')
    names = [run for run in RUNS[1:] if run != "5.2.0/fixed"]
    assert [run.name for run in scores.find_evaluations(computed)] == names
    assert [run.name for run in scores.find_evaluations(computed, RUNS[1:])] == names
    assert scores.not_evaluated(computed) == [
        "Not evaluated: 4.9.0/original.",
        "The evaluation of 5.2.0/fixed failed: Memory does not suffice.",
    ]


@pytest.mark.parametrize("runs", [None, []])
def test_without_evaluations_the_report_says_what_to_do(computed, runs):
    assert refusal(scores.find_evaluations, computed, runs) == (
        f"{computed} has no evaluation: run `snakemake evaluation`. Not evaluated: {', '.join(RUNS)}."
    )


def test_what_a_release_scored_is_shown_variant_by_variant(reference, tmp_path):
    write(tmp_path, "5.2.0/minimal", **MINIMAL)
    write(tmp_path, "5.2.0/fixed")
    runs = scores.evaluations([tmp_path / "5.2.0" / "minimal", tmp_path / "5.2.0" / "fixed"])
    first = scores.first_items(runs, 1).set_index(["task", "doc_id", "run"])
    assert first.index.to_list() == [
        (task, doc_id, run)
        for task, doc_id in dict.fromkeys((task, doc_id) for task, doc_id, _ in first.index)
        for run in ("5.2.0/minimal", "5.2.0/fixed")
    ]
    assert first.loc[("facts", 0), "prediction"].to_list() == [" b", " a"]
    assert first.loc[("facts", 0, "5.2.0/fixed"), "text"].endswith("Question 0?")
    conditions = scores.conditions(runs)
    assert conditions["run"].to_list() == ["5.2.0/minimal", "5.2.0/fixed"]
    assert conditions["batch_size"].to_list() == [8, 8]


def test_published_scores():
    found = scores.published().set_index("task")
    assert found.loc["mmlu"].to_dict() == {"original": 0.396, "patched_5_2": 0.508}
    assert found.loc["copa"].to_dict() == {"original": 0.8, "patched_5_2": 0.83}
    assert np.isnan(found.loc["social_iqa", "original"])
    assert found.loc["social_iqa", "patched_5_2"] == 0.444
    assert len(found) == 12


def report(folder):
    """Run the report's notebook on a folder of evaluations and return the finished process."""
    papermill = Path(sys.executable).with_name("papermill")
    return subprocess.run(
        [papermill, "notebooks/evaluation.ipynb", folder / "evaluation.ipynb", "-p", "output_dir", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def outputs(folder, source):
    """Return what the cell that begins with `source` displayed: for each output, its forms by their type."""
    cells = json.loads((folder / "evaluation.ipynb").read_text())["cells"]
    [cell] = [cell for cell in cells if "".join(cell["source"]).startswith(source)]
    return [{kind: "".join(form) for kind, form in output["data"].items()} for output in cell["outputs"]]


def displayed_table(folder, source):
    [output] = outputs(folder, source)
    lines = BeautifulSoup(output["text/html"], "html.parser").find_all("tr")
    return [[cell.get_text().strip() for cell in line.find_all(["th", "td"])] for line in lines]


def test_the_report_says_what_the_tables_say(reference, tmp_path):
    write(tmp_path, "5.10.0/fixed", batch_size=4)
    write(tmp_path, "5.2.0/minimal", **MINIMAL, dtype="bfloat16")
    (tmp_path / "5.2.0" / "fixed").mkdir()
    (tmp_path / "5.2.0" / "fixed" / "run.json").write_text("{}")
    done = report(tmp_path)
    assert done.returncode == 0, done.stderr
    [verdict] = outputs(tmp_path, "sentences = ")
    exactly = (
        "scores exactly what the reference scores on 1 of 1 releases: "
        "every log-likelihood of 5 items and 3 tokens is equal bit for bit."
    )
    assert verdict["text/markdown"].split("\n>\n") == [
        f"> **original** {exactly}",
        "> **minimal** differs on 1 of 1 releases. 5.2.0 ran with dtype bfloat16 instead of float32.",
        f"> **fixed** {exactly} 5.10.0 ran with batch_size 4 instead of 8.",
        "> Not evaluated: 5.2.0/fixed.",
    ]
    assert displayed_table(tmp_path, "changes = ") == [
        ["variant", "task", "releases", "reference", "lowest", "highest", "change", "unit"],
        ["minimal", "facts", "1 of 1", "80 %", "40 %", "40 %", "-40", "points"],
        ["minimal", "recall", "1 of 1", "1.167 nats", "2 nats", "2 nats", "0.833", "nats"],
    ]
    dtype = "dtype bfloat16 instead of float32"
    assert displayed_table(tmp_path, "table(scores.readable") == [
        ["transformers", "variant", "task", "score", "change", "95 % from", "to", "same prediction", "McNemar p",
         "largest change (nats)", "settings"],
        ["5.2.0", "minimal", "facts", "40 %", "-40", "-80", "0", "60 %", "0.5", "2.5", dtype],
        ["5.2.0", "minimal", "recall", "2 nats", "0.833", "0", "2", "", "", "2", dtype],
    ]  # fmt: skip
    assert displayed_table(tmp_path, "few = ") == [
        ["task", "doc_id", "text", "target", "prediction_reference", "prediction", "transformers", "variant"],
        ["facts", "0", "… Question 0?", "a", "a", "b", "5.2.0", "minimal"],
        ["facts", "2", "… Question 2?", "a", "a", "b", "5.2.0", "minimal"],
    ]
    assert displayed_table(tmp_path, "table(scores.published")[1] == ["arc_challenge", "0.485", "0.513"]
    settings = displayed_table(tmp_path, "varying(scores.conditions")
    assert [row[:2] for row in settings] == [
        ["run", "dtype"],
        ["4.48.0/original", "float32"],
        ["5.2.0/minimal", "bfloat16"],
        ["5.10.0/fixed", "float32"],
    ]
    figures = [output for cell in ("figure = ", "pairs = ", "tokens = ") for output in outputs(tmp_path, cell)]
    assert [list(figure) for figure in figures] == [["text/html", "text/plain"]] * 3
    table = pd.read_csv(tmp_path / "evaluation.csv", dtype={"tf_version": str, "changed": "Int64"})
    assert table["score"].tolist() == pytest.approx([0.8, 3.5 / 3, 0.4, 2, 0.8, 3.5 / 3])
    assert table["equal"].tolist() == [True, True, False, False, True, True]
    assert table["changed"].tolist() == [0, pd.NA, 2, pd.NA, 0, pd.NA]
    changed = pd.read_csv(tmp_path / "changed_items.csv")
    assert changed[["doc_id", "prediction_reference", "prediction"]].to_numpy().tolist() == [
        [0, " a", " b"],
        [2, " a", " b"],
    ]


def test_the_report_refuses_in_one_sentence(reference, tmp_path):
    write(tmp_path, "5.2.0/fixed", **without("recall"))
    done = report(tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "5.2.0/fixed was not evaluated on recall, but 4.48.0/original was: evaluate both on the same tasks."
    )
    assert not (tmp_path / "evaluation.csv").exists()
