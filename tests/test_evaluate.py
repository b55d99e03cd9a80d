"""Evaluations: tables and settings in the driver, with a stand-in for the harness; the harness itself in a kernel."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from opensci_lib import kernels
from opensci_lib.errors import OpensciError
from opensci_lib.evaluation import evaluate, fetch, items, merged, shots, tasks, vllm
from opensci_lib.evaluation.harness import Harness
from opensci_lib.evaluation.tasks.__main__ import write
from tests import tiny

RELEASE = "5.23.0"


# Our tasks


def test_the_tasks_data_are_what_the_script_writes(tmp_path):
    write(tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_text() == (Path(tasks.__file__).parent / file.name).read_text()
    assert sum(len(file.read_text().splitlines()) for file in tmp_path.iterdir()) >= 200


def test_items_differ_and_their_answers_are_among_the_choices():
    for row in tasks_rows("facts"):
        assert len(set(row["choices"])) == 4
        assert row["answer"] in range(4)
    for name in ("facts", "cloze", "prose", "recall"):
        lines = [json.dumps(row) for row in tasks_rows(name)]
        assert len(set(lines)) == len(lines)


def tasks_rows(name):
    return [
        json.loads(line) for line in (Path(tasks.__file__).parent / f"opensci_{name}.jsonl").read_text().splitlines()
    ]


# One item


def choice(target, likelihoods, **more):
    """Return what the harness logs of a question with the choices " a", " bb" and " ccc"."""
    return {
        "doc_id": 7,
        "target": target,
        "arguments": [("Q:", " a"), ("Q:", " bb"), ("Q:", " ccc")],
        "resps": [[(value, False)] for value in likelihoods],
        "acc": 0.0,
        **more,
    }


CHOICE = {"output_type": "multiple_choice", "target_delimiter": " "}


def test_a_choice():
    item = choice(1, [-3.0, -1.5, -2.0], acc=1.0, acc_norm=0.0)
    assert items.sample_row("t", CHOICE, item) == {
        "task": "t",
        "doc_id": 7,
        "text": "Q:",
        "correct": 1.0,
        "target": " bb",
        "choices": [" a", " bb", " ccc"],
        "loglikelihoods": [-3.0, -1.5, -2.0],
        "prediction": " bb",
    }


@pytest.mark.parametrize(
    ("target", "right"),
    [
        (0, " a"),
        (2, " ccc"),
        ("bb", " bb"),
        ("no choice", ""),
        ("1", ""),  # a text: the harness takes no number from it either
        (-1, ""),  # the harness holds none for right then
        (-100, ""),
        (3, ""),
        ([0, 2], " a or  ccc"),
        (["ccc", "bb"], " bb or  ccc"),
        ([], ""),
    ],
)
def test_the_right_choice(target, right):
    assert items.sample_row("t", CHOICE, choice(target, [-3, -1, -2]))["target"] == right


def test_a_text_is_found_whatever_the_delimiter():
    item = choice("bb", [-3, -1, -2], arguments=[("Q:", "a"), ("Q:", "bb"), ("Q:", "ccc")])
    assert items.sample_row("t", {**CHOICE, "target_delimiter": ""}, item)["target"] == "bb"
    item["arguments"] = [("Q:", "\na"), ("Q:", "\nbb"), ("Q:", "\nccc")]
    assert items.sample_row("t", {**CHOICE, "target_delimiter": "\n"}, item)["target"] == "\nbb"


def test_predictions_go_by_the_whole_likelihood_never_by_length():
    # a letter: " a" -2 (-2 each), " ccc" -3 (-1 each)
    row = items.sample_row("t", CHOICE, choice(0, [-2.0, -9.0, -3.0], acc=1.0, acc_norm=0.0))
    assert (row["prediction"], row["correct"]) == (" a", 1.0)
    row = items.sample_row("t", CHOICE, choice(2, [-2.0, -9.0, -3.0], acc=0.0, acc_norm=1.0))
    assert (row["prediction"], row["correct"]) == (" a", 0.0)


@pytest.mark.parametrize(
    ("likelihoods", "prediction"),
    [([-1, -1, -2], " a"), ([-2, -1, -1], " bb"), ([-3, -2, -1], " ccc"), ([-1, math.nan, -2], " bb")],
)
def test_of_equal_likelihoods_the_first_counts_and_nan_as_in_the_harness(likelihoods, prediction):
    assert int(np.argmax(likelihoods)) == [" a", " bb", " ccc"].index(prediction)
    assert items.sample_row("t", CHOICE, choice(0, likelihoods))["prediction"] == prediction


def test_a_task_without_accuracy_is_neither_right_nor_wrong():
    item = choice(0, [-1, -2, -3], acc_norm=1.0)
    del item["acc"]
    assert math.isnan(items.sample_row("t", CHOICE, item)["correct"])


def test_where_contexts_differ_they_are_the_choices():
    """As in winogrande: a prediction that is the same whatever the model says would show no change."""
    arguments = [("Ann fell because Ann", " slipped."), ("Ann fell because Eve", " slipped.")]
    item = choice("slipped.", [-2, -1], arguments=arguments)
    row = items.sample_row("t", CHOICE, item)
    assert row["choices"] == ["Ann fell because Ann", "Ann fell because Eve"]
    assert row["prediction"] == "Ann fell because Eve"
    assert row["text"] == "Ann fell because Ann"
    assert row["target"] == ""


@pytest.mark.parametrize(("greedy", "prediction"), [(True, " end"), (False, "(something else)")])
def test_a_last_word(greedy, prediction):
    item = {"doc_id": 3, "target": " end", "arguments": [("The", " end")], "resps": [[(-0.25, greedy)]], "acc": 1}
    assert items.sample_row("t", {"output_type": "loglikelihood"}, item) == {
        "task": "t",
        "doc_id": 3,
        "text": "The",
        "correct": 1,
        "target": " end",
        "choices": [" end"],
        "loglikelihoods": [-0.25],
        "prediction": prediction,
    }


def rolling(doc_id, text, likelihood):
    return {"doc_id": doc_id, "target": text, "arguments": [(text,)], "resps": [[likelihood]]}


ROLLING = {"output_type": "loglikelihood_rolling"}


def test_a_text():
    row = items.sample_row("t", ROLLING, rolling(3, "Once more.", -12.5))
    assert math.isnan(row.pop("correct"))
    assert row == {
        "task": "t",
        "doc_id": 3,
        "text": "Once more.",
        "target": "",
        "choices": [],
        "loglikelihoods": [-12.5],
        "prediction": "",
    }


# Tables

CONFIGS = {"facts": CHOICE, "prose": ROLLING}
LOGGED = {
    "facts": [choice(0, [-1, -2, -3], acc=1), choice(1, [-4, -5, -6], doc_id=8)],
    "prose": [rolling(0, "ab", -1.5), rolling(4, "abc", -2.5)],
}


def letters(text):
    """Return for each letter its place in the alphabet, as if it were -log p."""
    return [float("abc".index(letter)) for letter in text]


def test_samples_are_a_row_per_item():
    table = items.samples(CONFIGS, LOGGED)
    assert table["task"].tolist() == ["facts", "facts", "prose", "prose"]
    assert table["doc_id"].tolist() == [7, 8, 0, 4]
    assert table["correct"].tolist()[:2] == [1, 0]
    assert table["correct"].isna().tolist() == [False, False, True, True]
    assert table["loglikelihoods"].tolist() == [[-1, -2, -3], [-4, -5, -6], [-1.5], [-2.5]]
    assert items.samples(CONFIGS, {"facts": LOGGED["facts"]})["correct"].dtype == np.float64


def test_positions_are_a_row_per_token_of_texts():
    table = items.positions(CONFIGS, LOGGED, letters)
    assert table.to_dict("list") == {
        "task": ["prose"] * 5,
        "doc_id": [0, 0, 4, 4, 4],
        "position": [0, 1, 0, 1, 2],
        "nats": [0, 1, 0, 1, 2],
    }


def test_without_texts_the_types_are_the_same():
    full, empty = items.positions(CONFIGS, LOGGED, letters), items.positions(CONFIGS, {"facts": []}, letters)
    assert len(empty) == 0
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()


# Numbers of examples, and results of several tasks


def test_numbers_of_examples():
    assert shots("copa", None) == {"copa": None}
    assert shots(["b", "a"], 3) == {"b": 3, "a": 3}
    assert shots(["b"], 0) == {"b": 0}
    assert shots("open-sci-0.01", 2) == dict.fromkeys(shots("open-sci-0.01", None), 2)
    assert shots(["first", "open-sci-0.01"], None) == {
        "first": None,
        **{"copa": 0, "social_iqa": 0, "openbookqa": 0, "lambada_openai": 0, "winogrande": 0, "mmlu": 5},
        **{"hellaswag": 10, "arc_easy": 10, "arc_challenge": 10, "commonsense_qa": 10, "piqa": 10, "boolq": 10},
    }


def test_results_are_joined_by_task():
    parts = [
        {"results": {"a": {"acc": 1}}, "n-shot": {"a": 0}, "config": {"model": "x", "old": 1}, "date": 1.0},
        {"results": {"b": {"acc": 0}}, "n-shot": {"b": 5}, "config": {"model": "x"}, "date": 2.0, "more": None},
    ]
    assert merged(parts) == {
        "results": {"a": {"acc": 1}, "b": {"acc": 0}},
        "n-shot": {"a": 0, "b": 5},
        "config": {"model": "x"},
        "date": 2.0,
        "more": None,
    }


def test_a_task_is_not_taken_twice():
    with pytest.raises(OpensciError) as refused:
        merged([{"results": {"a": 1}}, {"results": {"c": 1, "b": 1}}, {"results": {"c": 2, "b": 2}}])
    assert refused.value.message == "Task b was asked for twice: name it, or a group or file that holds it."


# The whole, with a stand-in for the harness


class StandIn:
    """A harness whose every task is one question and one text; it notes how it is called."""

    def __init__(self):
        self.versions = {"lm-eval": "0.4"}
        self.calls = []
        self.fail = None
        self.too_long = {}  # how many items of which task are

    def tasks(self, name):
        self.calls.append(("tasks", name))
        if name == self.fail:
            raise OpensciError(f"no {name}")
        return [f"the tasks of {name}"]

    def model(self, model_path, dtype, device, batch_size, too_long, *backend):
        self.calls.append(("model", model_path, dtype, device, batch_size, too_long, *backend))
        self.lm = SimpleNamespace(batch_size=batch_size)
        return self.lm

    def score(self, lm, loaded, num_fewshot, limit):
        self.calls.append(("score", *loaded, num_fewshot, limit))
        lm.batch_size //= 2  # as if memory had not sufficed
        *folder, name = Path(loaded[0].removeprefix("the tasks of ")).with_suffix("").parts
        name = "-".join([*folder[-1:], name])
        return {
            "results": {name: {"acc,none": 0.5}, f"{name}_text": {"word_perplexity,none": math.e}},
            "configs": {name: CHOICE, f"{name}_text": ROLLING},
            "n-shot": {name: num_fewshot},
            "config": {"model_dtype": Path},
            "items_too_long": {task: count for task, count in self.too_long.items() if task == name},
            "samples": {name: [choice(1, [-3, -1, -2], acc=1.0)], f"{name}_text": [rolling(2, "ba", -1.0)]},
        }

    def token_nats(self, lm, text):
        assert lm is self.lm
        return letters(text)

    @property
    def scored(self):
        """Names of what was scored."""
        return [call[1].removeprefix("the tasks of ") for call in self.calls if call[0] == "score"]


@pytest.fixture
def harness():
    return StandIn()


@pytest.fixture
def model(tmp_path):
    return tiny.write(tmp_path / "model")


@pytest.fixture
def output(tmp_path):
    (tmp_path / "output").mkdir()
    return tmp_path / "output"


def test_everything_is_handed_on(harness, model, output):
    evaluate(model, output, ["b", "a"], 3, 20, 16, "bfloat16", "cuda:1", "skip", harness=harness)
    assert harness.calls == [
        ("tasks", "b"),
        ("model", model, "bfloat16", "cuda:1", 16, "skip"),
        ("score", "the tasks of b", 3, 20),
        ("tasks", "a"),
        ("score", "the tasks of a", 3, 20),
    ]


def test_by_default_the_four_tasks_that_need_no_download(harness, model, output):
    evaluate(model, output, harness=harness)
    names = ["opensci_facts", "opensci_cloze", "opensci_recall", "opensci_prose"]
    assert harness.scored == names
    assert harness.calls[1] == ("model", model, "auto", "auto", 8, "refuse")
    assert [call[2:] for call in harness.calls if call[0] == "score"] == [(None, None)] * 4


def test_a_group_has_its_own_numbers_of_examples(harness, model, output):
    evaluate(model, output, "open-sci-0.01", harness=harness)
    counts = {call[1].removeprefix("the tasks of "): call[2] for call in harness.calls if call[0] == "score"}
    assert counts == shots("open-sci-0.01", None)


def test_what_is_written(harness, model, output):
    results = evaluate(model, output, ["b", "a"], 3, 20, 16, "float32", "cpu", harness=harness, variant="fixed")
    assert sorted(file.name for file in output.iterdir()) == ["eval.json", "positions.parquet", "samples.parquet"]
    assert json.loads((output / "eval.json").read_text()) == results
    run = results.pop("run")
    assert results == {
        "results": {name + end: value for name in "ba" for end, value in
                    (("", {"acc,none": 0.5}), ("_text", {"word_perplexity,none": math.e}))},
        "configs": {"b": CHOICE, "b_text": ROLLING, "a": CHOICE, "a_text": ROLLING},
        "n-shot": {"b": 3, "a": 3},
        "config": {"model_dtype": str(Path)},
    }  # fmt: skip
    files = {name: (size, changed) for name, size, changed in run.pop("files")}
    assert files == {
        file.name: (file.stat().st_size, file.stat().st_mtime_ns) for file in model.iterdir() if file.is_file()
    }
    assert run == {
        "model_path": str(model),
        "num_fewshot": 3,
        "limit": 20,
        "batch_size": 16,
        "dtype": "float32",
        "device": "cpu",
        "versions": {"lm-eval": "0.4"},
        "too_long": "refuse",
        "batch_size_used": {"b": 8, "a": 4},
        "items_too_long": {},
        "variant": "fixed",
    }
    samples = pd.read_parquet(output / "samples.parquet")
    assert samples["task"].tolist() == ["b", "b_text", "a", "a_text"]
    assert samples["prediction"].tolist() == [" bb", "", " bb", ""]
    assert samples.index.tolist() == [0, 1, 2, 3]
    positions = pd.read_parquet(output / "positions.parquet")
    assert positions.to_dict("list") == {
        "task": ["b_text"] * 2 + ["a_text"] * 2,
        "doc_id": [2] * 4,
        "position": [0, 1, 0, 1],
        "nats": [1, 0, 1, 0],
    }


def start(harness, model, output, **settings):
    """Evaluate b, which fails at a after it."""
    harness.fail = "a"
    with pytest.raises(OpensciError, match="no a"):
        evaluate(model, output, ["b", "a"], harness=harness, **settings)
    assert harness.scored == ["b"]
    harness.fail = None


def test_a_broken_run_goes_on(harness, model, output):
    start(harness, model, output)
    assert [file.name for file in output.iterdir()] == ["evaluation"]
    results = evaluate(model, output, ["b", "a", "c"], harness=harness)
    assert harness.scored == ["b", "a", "c"]
    assert list(results["results"]) == ["b", "b_text", "a", "a_text", "c", "c_text"]
    assert results["run"]["batch_size_used"] == {"b": 4, "a": 4, "c": 2}
    assert pd.read_parquet(output / "samples.parquet")["task"].tolist() == list(results["results"])
    assert not (output / "evaluation").exists()
    evaluate(model, output, ["b"], harness=harness)  # a finished run is no broken one
    assert harness.scored == ["b", "a", "c", "b"]


def test_without_anything_to_score_no_model_is_loaded(harness, model, output):
    start(harness, model, output)
    evaluate(model, output, ["b"], harness=harness)
    assert [call[0] for call in harness.calls] == ["tasks", "model", "score", "tasks"]


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "bfloat16"},
        {"device": "cpu"},
        {"limit": 5},
        {"batch_size": 4},
        {"num_fewshot": 2},
        {"num_fewshot": 0},
    ],
)
def test_with_another_setting_it_is_computed_again(harness, model, output, change):
    start(harness, model, output)
    results = evaluate(model, output, ["b"], harness=harness, **change)
    assert harness.scored == ["b", "b"]
    assert {name: results["run"][name] for name in change} == change


def test_what_becomes_of_long_items_matters_only_to_tasks_that_have_some(harness, model, output):
    """Refused at one task, those before it are kept, with whatever choice they go on."""
    harness.too_long = {"b": 3}
    harness.fail = "a"
    with pytest.raises(OpensciError, match="no a"):
        evaluate(model, output, ["c", "b", "a"], harness=harness, too_long="truncate")
    harness.fail = None
    kept = evaluate(model, output, ["c", "b", "a"], harness=harness, too_long="truncate")["run"]
    assert harness.scored == ["c", "b", "a"]
    assert (kept["too_long"], kept["items_too_long"]) == ("truncate", {"b": 3})
    harness.fail = "d"
    with pytest.raises(OpensciError, match="no d"):
        evaluate(model, output, ["c", "b", "d"], harness=harness, too_long="truncate")
    assert harness.scored == ["c", "b", "a", "c", "b"]
    assert evaluate(model, output, ["c", "b"], harness=harness, too_long="skip")["run"]["too_long"] == "skip"
    assert harness.scored == ["c", "b", "a", "c", "b", "b"]


def test_an_unknown_choice_for_long_items_is_refused_before_anything_is_done(harness, model, output):
    with pytest.raises(OpensciError) as refused:
        evaluate(model, output, harness=harness, too_long="shorten")
    assert refused.value.message == "Unknown too_long 'shorten': choose one of refuse, truncate, skip."
    assert harness.calls == []


def test_another_backend_is_asked_for_and_told(harness, model, output):
    assert evaluate(model, output, ["b"], harness=harness, backend="vllm")["run"]["backend"] == "vllm"
    assert harness.calls[1] == ("model", model, "auto", "auto", 8, "refuse", "vllm", None)
    as_before = evaluate(model, output, ["b"], harness=harness, backend="vllm", tensor_parallel_size=0)["run"]
    assert as_before["tensor_parallel_size"] is None
    shared = evaluate(model, output, ["b"], harness=harness, backend="vllm", tensor_parallel_size=2)["run"]
    assert (shared["backend"], shared["tensor_parallel_size"]) == ("vllm", 2)
    assert harness.calls[7] == ("model", model, "auto", "auto", 8, "refuse", "vllm", 2)
    with pytest.raises(OpensciError) as refused:
        evaluate(model, output, ["b"], harness=harness, backend="sglang")
    assert refused.value.message == "Unknown backend 'sglang': choose one of hf, vllm."
    with pytest.raises(OpensciError) as refused:
        evaluate(model, output, ["b"], harness=harness, tensor_parallel_size=2)
    assert refused.value.message == (
        "tensor_parallel_size is about vLLM's processes: take the backend vllm, or leave it out."
    )
    assert len(harness.calls) == 9


def test_with_the_number_of_examples_of_a_group_it_is_computed_again(harness, model, output):
    harness.fail = "hellaswag"  # comes after mmlu, which the group puts with five examples
    with pytest.raises(OpensciError, match="no hellaswag"):
        evaluate(model, output, "open-sci-0.01", harness=harness)
    evaluate(model, output, ["mmlu"], harness=harness)
    assert [call[2] for call in harness.calls if call[:2] == ("score", "the tasks of mmlu")] == [5, None]


def test_settings_of_both_are_compared(harness, model, output):
    """Not only with the defaults."""
    settings = {"dtype": "float32", "device": "cpu", "limit": 5, "batch_size": 4, "num_fewshot": 2}
    start(harness, model, output, **settings)
    evaluate(model, output, ["b"], harness=harness, **settings)
    assert harness.scored == ["b"]


@pytest.mark.parametrize(
    "file", ["model-00002-of-00002.safetensors", "config.json", "modeling_tiny.py", "tokenizer.json"]
)
def test_with_another_model_it_is_computed_again(harness, model, output, file):
    start(harness, model, output)
    state = (model / file).stat()
    os.utime(model / file, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    evaluate(model, output, ["b"], harness=harness)
    assert harness.scored == ["b", "b"]


def test_with_a_larger_file_it_is_computed_again(harness, model, output):
    start(harness, model, output)
    state = (model / "config.json").stat()
    (model / "config.json").write_text((model / "config.json").read_text() + " ")
    os.utime(model / "config.json", ns=(state.st_atime_ns, state.st_mtime_ns))
    evaluate(model, output, ["b"], harness=harness)
    assert harness.scored == ["b", "b"]


def test_another_folder_is_another_model(harness, model, output, tmp_path):
    start(harness, model, output)
    evaluate(tiny.write(tmp_path / "other"), output, ["b"], harness=harness)
    assert harness.scored == ["b", "b"]


def test_with_other_versions_it_is_computed_again(harness, model, output):
    start(harness, model, output)
    harness.versions = {"lm-eval": "0.5"}
    evaluate(model, output, ["b"], harness=harness)
    assert harness.scored == ["b", "b"]


@pytest.mark.parametrize(("file", "again"), [("b.yaml", True), ("data.jsonl", True), ("notes.txt", False)])
def test_with_another_task_file_it_is_computed_again(harness, model, output, tmp_path, file, again):
    (tmp_path / "b.yaml").write_text("task: b\ndata_files: data.jsonl\n")
    (tmp_path / "data.jsonl").write_text("{}\n")
    (tmp_path / "notes.txt").write_text("")
    task = str(tmp_path / "b.yaml")
    harness.fail = "a"
    with pytest.raises(OpensciError):
        evaluate(model, output, [task, "a"], harness=harness)
    with (tmp_path / file).open("a") as changed:
        changed.write("\n")
    evaluate(model, output, [task], harness=harness)
    assert harness.scored == [task, task] if again else [task]


def test_a_task_of_ours_is_known_by_its_files(harness, model, output):
    start_names = ["opensci_facts", "a"]
    harness.fail = "a"
    with pytest.raises(OpensciError):
        evaluate(model, output, start_names, harness=harness)
    known = json.loads((output / "evaluation" / "opensci_facts" / "settings.json").read_text())["task"]
    assert {name for name, *_ in known} == {"opensci_facts.yaml", "opensci_facts.jsonl"}


def test_files_of_one_name_are_two_tasks(harness, model, output, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "t.yaml").write_text("task: t\n")
    names = [str(tmp_path / folder / "t.yaml") for folder in ("one", "two")]
    results = evaluate(model, output, names, harness=harness)
    assert list(results["results"]) == ["one-t", "one-t_text", "two-t", "two-t_text"]
    assert pd.read_parquet(output / "samples.parquet")["task"].tolist() == list(results["results"])


def test_a_task_that_fails_while_its_tables_are_made_is_computed_again(harness, model, output):
    whole = harness.token_nats

    def broken(lm, text):
        raise ZeroDivisionError

    harness.token_nats = broken
    with pytest.raises(ZeroDivisionError):
        evaluate(model, output, ["b"], harness=harness)
    harness.token_nats = whole
    evaluate(model, output, ["b"], harness=harness)
    assert harness.scored == ["b", "b"]


def test_a_folder_that_is_no_model_is_refused_before_anything_is_done(harness, output):
    with pytest.raises(OpensciError, match=r"it has no config\.json"):
        evaluate(output, output, ["b"], harness=harness)
    assert harness.calls == []


def test_fetching_loads_each_task(harness):
    assert fetch(["b", "open-sci-0.01"], harness) == ["b", *shots("open-sci-0.01", None)]
    assert harness.calls == [("tasks", name) for name in ["b", *shots("open-sci-0.01", None)]]


def test_without_the_harness_there_is_a_sentence():
    with pytest.raises(OpensciError) as refused:
        Harness()
    assert refused.value.message == (
        "lm-eval is not installed in this kernel: add it with `opensci kernels build --layer evaluation`."
    )


def test_without_vllm_there_is_a_sentence(model):
    with pytest.raises(OpensciError) as refused:
        vllm.model(model, "auto", 8, "refuse")
    assert refused.value.message == (
        "vLLM is not installed here: take the kernel of vLLM, or name its release (tf_version)."
    )


# The harness itself, on a model made by hand and on the miniature

_EVALUATE = """
import json, sys
import pandas as pd, torch
from opensci_lib.errors import OpensciError
from opensci_lib.evaluation import evaluate
from opensci_lib.evaluation.harness import Harness
from opensci_lib.runs.loading import load

found, harness = {}, Harness()
for name, line in json.loads(sys.argv[2]).items():
    print(f"{name}:")
    try:
        evaluate(**line, harness=None if name == "miniature" else harness)
        found[name] = "done"
    except Exception as error:
        found[name] = error.message if isinstance(error, OpensciError) else f"{type(error).__name__}: {error}"

# Log-likelihoods of the miniature, from its logits
call = json.loads(sys.argv[2])["miniature"]
model, tokenizer = load(call["model_path"])

@torch.inference_mode()
def log_probability(context, continuation):
    before, whole = tokenizer(context)["input_ids"] or [0], tokenizer(context + continuation)["input_ids"]
    whole = whole if context else [0, *whole]
    lines = model(torch.tensor([whole[:-1]])).logits[0].log_softmax(-1)
    return sum(float(lines[i - 1, whole[i]]) for i in range(len(before), len(whole)))

found["by hand"] = []
for row in pd.read_parquet(call["output_dir"] + "/samples.parquet").itertuples():
    context, choices = (row.text, row.choices) if len(row.choices) else ("", [row.text])
    found["by hand"].append([log_probability(context, choice) for choice in choices])
json.dump(found, open(sys.argv[1], "w"))
"""

_TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {name}.jsonl}}}}
output_type: {kind}
test_split: test
doc_to_text: {text}
doc_to_target: {target}
{more}
metric_list: [{metrics}]
"""

_CHOICES = [
    {
        "question": "a b",
        "choices": ["c", "c d e"],
        "answer": 0,
    },  # each letter of "c d e" is likelier than that of "c"
    {"question": "e", "choices": ["a", "f"], "answer": 0},  # wrong
    {"question": "b", "choices": ["c", "d"], "answer": 0},
]


def write_tasks(folder):
    """Write tasks in the words of the hand-made model; return their files."""

    def put(name, kind, text, target, metrics, rows, more=""):
        metrics = ", ".join(f"{{metric: {metric}}}" for metric in metrics)
        yaml = _TASK.format(name=name, kind=kind, text=text, target=target, more=more, metrics=metrics)
        (folder / f"{name}.yaml").write_text(yaml)
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    put("choice", "multiple_choice", "'{{question}}'", "'{{answer}}'", ["acc", "acc_norm"], _CHOICES,
        "doc_to_choice: '{{choices}}'")  # fmt: skip
    words = [{"text": "a b", "word": "c"}, {"text": "f g", "word": "b"}]
    put("word", "loglikelihood", "'{{text}}'", "\"{{' ' + word}}\"", ["acc", "perplexity"], words,
        "target_delimiter: ''")  # fmt: skip
    texts = [{"text": "a b c"}, {"text": "a c d e f g <end> a b c"}]
    put("text", "loglikelihood_rolling", "''", "'{{text}}'", ["word_perplexity"], texts)
    texts = ["b", "a b c d e f", "a b", "g g g g g"]
    put("long", "loglikelihood", "'{{text}}'", "' c'", ["acc"], [{"text": text} for text in texts])
    put("longer", "loglikelihood", "'{{text}}'", "' c'", ["acc"], [{"text": "a b c d e f"}])
    put("answer", "loglikelihood", "'{{text}}'", "' b c d e f g'", ["acc"], [{"text": "a"}, {"text": "b"}])
    put("write", "generate_until", "'{{text}}'", "' c'", ["exact_match"], [{"text": "a"}])
    (folder / "bad.yaml").write_text("task: [unclosed\n")
    (folder / "empty.yaml").write_text("just_this: 1\n")
    return {file.stem: str(file) for file in folder.glob("*.yaml")}


@pytest.fixture(scope="module")
def outcomes(variant_folder, tmp_path_factory):
    """A folder of results for each call of one kernel process; `found`, what came of it; `said`, what it printed."""
    kernels.build(RELEASE, "evaluation")
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "tasks").mkdir()
    files = write_tasks(folder / "tasks")
    memory = {
        "complaint": "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
    }
    tiny.write(folder / "plain")
    tiny.write(folder / "short", max_position_embeddings=5)
    tiny.write(folder / "scarce", most_rows=2, log=f"{folder}/scarce.log", **memory)
    tiny.write(folder / "none", most_rows=0, log=f"{folder}/none.log", **memory)
    tiny.write(folder / "broken", most_rows=2, log=f"{folder}/broken.log", complaint="index out of range in self")
    tables = [files["choice"], files["word"], files["text"]]
    calls = {
        "plain": {"tasks": tables, "device": "cpu"},
        "small": {"tasks": tables, "device": "cpu", "batch_size": 2},
        "scarce": {"tasks": tables},
        "none": {"tasks": [files["choice"]]},
        "broken": {"tasks": [files["choice"]]},
        "short": {"tasks": [files["text"]]},
        "too long": {"model": "short", "tasks": [files["choice"], files["long"]]},
        "truncate": {"model": "short", "tasks": [files["choice"], files["long"]], "too_long": "truncate"},
        "skip": {"model": "short", "tasks": [files["long"], files["word"]], "too_long": "skip"},
        "skip all": {"model": "short", "tasks": [files["longer"]], "too_long": "skip"},
        "answer": {"model": "short", "tasks": [files["answer"]], "too_long": "truncate"},
        "settings": {"tasks": [files["choice"], files["word"]], "num_fewshot": 1, "limit": 1, "dtype": "bfloat16"},
        "device": {"tasks": [files["choice"]], "device": "cuda:99"},
        "bad": {"tasks": [files["bad"]]},
        "empty": {"tasks": [files["empty"]]},
        "write": {"tasks": [files["write"]]},
        "unknown": {"tasks": "no_such_task"},
        "copa": {"tasks": "copa"},
        "miniature": {"model_path": str(variant_folder("fixed"))},
    }
    for name, call in calls.items():
        (folder / "results" / name).mkdir(parents=True)
        model = call.pop("model", name if (folder / name).exists() else "plain")
        call.setdefault("model_path", f"{folder}/{model}")
        call["output_dir"] = f"{folder}/results/{name}"
    environment = {
        **{name: value for name, value in os.environ.items() if name != "HF_MODULES_CACHE"},
        **{"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": f"{folder}/home"},
    }
    done = subprocess.run(
        [kernels.python(RELEASE), "-c", _EVALUATE, folder / "found.json", json.dumps(calls)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "found.json").read_text())
    return SimpleNamespace(folder=folder, files=files, found=found, said=done.stdout)


def table(outcomes, name, kind="samples"):
    assert outcomes.found[name] == "done"
    return pd.read_parquet(outcomes.folder / "results" / name / f"{kind}.parquet")


def results_of(outcomes, name):
    return json.loads((outcomes.folder / "results" / name / "eval.json").read_text())


@pytest.mark.kernel
def test_scores_follow_on_paper(outcomes):
    results = results_of(outcomes, "plain")["results"]
    assert results["choice"]["acc,none"] == pytest.approx(2 / 3)
    assert results["choice"]["acc_norm,none"] == pytest.approx(1 / 3)
    assert results["word"]["acc,none"] == 1 / 2
    # the harness's perplexity of last words is exp of the mean; that of texts goes by their words, 3 and 10
    assert results["word"]["perplexity,none"] == pytest.approx(math.exp(-(tiny.RIGHT + tiny.WRONG) / 2))
    whole = 3 * tiny.RIGHT + 9 * tiny.RIGHT + tiny.WRONG
    assert results["text"]["word_perplexity,none"] == pytest.approx(math.exp(-whole / 13))


@pytest.mark.kernel
def test_items_follow_on_paper(outcomes):
    samples = table(outcomes, "plain")
    assert samples["task"].tolist() == ["choice"] * 3 + ["word"] * 2 + ["text"] * 2
    assert samples["doc_id"].tolist() == [0, 1, 2, 0, 1, 0, 1]
    assert samples["text"].tolist() == ["a b", "e", "b", "a b", "f g", "a b c", "a c d e f g <end> a b c"]
    assert [list(choices) for choices in samples["choices"]] == [
        [" c", " c d e"], [" a", " f"], [" c", " d"], [" c"], [" b"], [], []
    ]  # fmt: skip
    assert samples["target"].tolist() == [" c", " a", " c", " c", " b", "", ""]
    assert samples["prediction"].tolist() == [" c", " f", " c", " c", "(something else)", "", ""]
    assert samples["correct"].tolist()[:5] == [1, 0, 1, 1, 0]
    assert samples["correct"].isna().tolist()[5:] == [True, True]
    right, wrong = tiny.RIGHT, tiny.WRONG
    expected = [
        [right, 3 * right], [wrong, right], [right, wrong], [right], [wrong], [3 * right], [9 * right + wrong]
    ]  # fmt: skip
    for found, values in zip(samples["loglikelihoods"], expected, strict=True):
        np.testing.assert_allclose(found, values, rtol=1e-6)


@pytest.mark.kernel
def test_tokens_follow_on_paper(outcomes):
    positions = table(outcomes, "plain", "positions")
    assert positions["task"].tolist() == ["text"] * 13
    assert positions["doc_id"].tolist() == [0] * 3 + [1] * 10
    assert positions["position"].tolist() == [*range(3), *range(10)]
    nats = [-tiny.RIGHT] * 3 + [-tiny.RIGHT, -tiny.WRONG] + [-tiny.RIGHT] * 8
    np.testing.assert_allclose(positions["nats"], nats, rtol=1e-6)


@pytest.mark.kernel
def test_a_text_longer_than_the_context_is_read_in_windows(outcomes):
    np.testing.assert_allclose(
        table(outcomes, "short", "positions")["nats"], table(outcomes, "plain", "positions")["nats"], rtol=1e-6
    )
    for short, whole in zip(
        table(outcomes, "short")["loglikelihoods"], table(outcomes, "plain")["loglikelihoods"][5:], strict=True
    ):
        np.testing.assert_allclose(short, whole, rtol=1e-6)


@pytest.mark.kernel
def test_an_item_longer_than_the_context_is_refused(outcomes):
    assert outcomes.found["too long"] == (
        "Task long has items longer than the model's context of 5 tokens (1 of 4): "
        "lower num_fewshot, leave this task out, or set too_long to truncate or skip."
    )
    kept = outcomes.folder / "results" / "too long" / "evaluation"
    assert [len(pd.read_parquet(file)) for file in kept.glob("*/samples.parquet")] == [3]  # of the task before


@pytest.mark.kernel
def test_an_item_longer_than_the_context_may_lose_its_beginning(outcomes):
    """What comes before the last word does not matter to the hand-made model."""
    samples = table(outcomes, "truncate")
    assert samples["doc_id"].tolist() == [0, 1, 2, 0, 1, 2, 3]
    expected = [tiny.RIGHT, tiny.WRONG, tiny.RIGHT, tiny.WRONG]
    np.testing.assert_allclose([found[0] for found in samples["loglikelihoods"][3:]], expected, rtol=1e-6)
    results = results_of(outcomes, "truncate")
    assert results["run"]["items_too_long"] == {"long": 1}
    assert results["results"]["long"]["acc,none"] == 1 / 2


@pytest.mark.kernel
def test_an_item_longer_than_the_context_may_be_left_out(outcomes):
    """Of tables and of scores; the others keep their numbers and their own answers."""
    samples = table(outcomes, "skip")
    assert samples["task"].tolist() == ["long", "long", "long", "word", "word"]
    assert samples["doc_id"].tolist() == [0, 2, 3, 0, 1]
    assert samples["text"].tolist() == ["b", "a b", "g g g g g", "a b", "f g"]
    expected = [tiny.RIGHT, tiny.RIGHT, tiny.WRONG, tiny.RIGHT, tiny.WRONG]
    np.testing.assert_allclose([found[0] for found in samples["loglikelihoods"]], expected, rtol=1e-6)
    results = results_of(outcomes, "skip")
    assert results["run"]["items_too_long"] == {"long": 1}
    assert results["results"]["long"]["acc,none"] == 2 / 3
    assert results["n-samples"]["long"] == {"original": 4, "effective": 3}


@pytest.mark.kernel
def test_where_no_choice_can_help_there_is_a_sentence(outcomes):
    context = "longer than the model's context of 5 tokens"
    assert outcomes.found["skip all"] == f"All items of task longer are {context}: leave it out."
    assert outcomes.found["answer"] == (f"Task answer has an answer {context}: leave it out, or skip such items.")


@pytest.mark.kernel
def test_settings_reach_the_harness(outcomes):
    samples, results = table(outcomes, "settings"), results_of(outcomes, "settings")
    assert len(samples) == 2
    assert results["n-shot"] == {"choice": 1, "word": 1}
    for text, own in zip(samples["text"], ["a b", "a b"], strict=True):
        example, asked = text.split("\n\n")
        assert asked == own
        assert example in ("a b c", "e a", "b c", "f g b")
    assert results["config"]["model_dtype"] == "torch.bfloat16"
    assert results["config"]["limit"] == 1
    # bfloat16 keeps eight bits of the logarithm
    assert samples["loglikelihoods"][0][0] == pytest.approx(tiny.RIGHT, rel=2**-6)
    assert samples["loglikelihoods"][0][0] != pytest.approx(tiny.RIGHT, rel=1e-5)
    assert outcomes.found["device"].startswith("The model can't be put on cuda:99 (")


@pytest.mark.kernel
def test_a_batch_too_large_for_memory_is_halved(outcomes):
    # four rows of choices, since choices of one token share a row: refused, refused, then two by two
    rows = [int(line) for line in (outcomes.folder / "scarce.log").read_text().split()]
    assert rows[:4] == [4, 4, 2, 2]
    assert max(rows[4:]) == 2  # of the tasks that follow
    said = outcomes.said.partition("scarce:")[2].partition("none:")[0]
    assert [line for line in said.splitlines() if line.startswith("Memory")] == [
        f"Memory does not suffice for batches of this size: going on with {size}." for size in (4, 2)
    ]
    run = results_of(outcomes, "scarce")["run"]
    assert run["batch_size"] == 8
    assert run["batch_size_used"] == dict.fromkeys((outcomes.files[name] for name in ("choice", "word", "text")), 2)
    assert set(results_of(outcomes, "plain")["run"]["batch_size_used"].values()) == {8}


@pytest.mark.kernel
def test_a_halved_batch_scores_what_a_small_one_scores(outcomes):
    for kind in ("samples", "positions"):
        assert table(outcomes, "scarce", kind).to_json() == table(outcomes, "small", kind).to_json()
    assert results_of(outcomes, "scarce")["results"] == results_of(outcomes, "small")["results"]


@pytest.mark.kernel
def test_where_not_even_one_item_fits_or_something_else_is_wrong_the_error_is_told(outcomes):
    assert [int(line) for line in (outcomes.folder / "none.log").read_text().split()] == [4, 4, 2, 1]
    assert outcomes.found["none"].startswith("RuntimeError: [enforce fail] DefaultCPUAllocator")
    assert (outcomes.folder / "broken.log").read_text().split() == ["4"]
    assert outcomes.found["broken"] == "RuntimeError: index out of range in self"


@pytest.mark.kernel
def test_bad_tasks_get_one_sentence(outcomes):
    found, files = outcomes.found, outcomes.files
    assert found["bad"].startswith(f"{files['bad']} is not valid YAML (while parsing a flow sequence")
    assert found["bad"].endswith("): fix it.")
    assert found["empty"].startswith(f"{files['empty']} is no task of the harness (")
    assert found["empty"].endswith("): see its docs/task_guide.md.")
    assert found["write"] == (
        f"Task {files['write']} generates text, which is not kept item by item here: leave it out."
    )
    assert found["unknown"] == (
        "There is no task 'no_such_task': give one of opensci_facts, opensci_cloze, opensci_recall, opensci_prose, "
        "open-sci-0.01, a task of lm-evaluation-harness, or a YAML file."
    )
    assert found["copa"].startswith("The data of task copa are unavailable (")
    assert found["copa"].endswith(
        "): run `opensci download --tasks copa` on a machine with a network and the same HF_HOME, "
        "with HF_DATASETS_OFFLINE unset."
    )


@pytest.mark.kernel
def test_the_harness_numbers_follow_from_logits(outcomes):
    """Accuracy exactly; log-likelihoods but for rounding, since the harness pads batches and this does not."""
    samples, by_hand = table(outcomes, "miniature"), outcomes.found["by hand"]
    for row, found in zip(samples.itertuples(), by_hand, strict=True):
        np.testing.assert_allclose(row.loglikelihoods, found, rtol=1e-4, atol=1e-4)
    facts = samples[samples["task"] == "opensci_facts"]
    right = [
        choices[int(np.argmax(by_hand[number]))] == target
        for number, choices, target in zip(facts.index, facts["choices"], facts["target"], strict=True)
    ]
    assert results_of(outcomes, "miniature")["results"]["opensci_facts"]["acc,none"] == np.mean(right)
    assert facts["correct"].tolist() == right


@pytest.mark.kernel
def test_the_model_is_good_enough_to_lose_points(outcomes):
    results = results_of(outcomes, "miniature")["results"]
    assert results["opensci_facts"]["acc,none"] > 0.9
    assert results["opensci_cloze"]["acc,none"] > 0.8


@pytest.mark.kernel
def test_positions_add_up_to_the_rolling_likelihoods(outcomes):
    samples = table(outcomes, "miniature").set_index(["task", "doc_id"])
    sums = table(outcomes, "miniature", "positions").groupby(["task", "doc_id"])["nats"].sum()
    assert set(sums.index.get_level_values("task")) == {"opensci_recall", "opensci_prose"}
    for key, nats in sums.items():
        assert samples.loc[key, "loglikelihoods"][0] == pytest.approx(-nats, rel=1e-4)


@pytest.mark.kernel
def test_downloading_data_of_an_unknown_task_gets_a_sentence():
    command = [Path(sys.executable).with_name("opensci"), "download", "--tasks", "no_such_task"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: There is no task 'no_such_task'")
    assert "Traceback" not in done.stderr


# The command


def command(folder, *options):
    words = ["evaluate", "--model_path", folder, "--tf_version", RELEASE, *options]
    return subprocess.run(
        [sys.executable, "-m", "opensci_lib", *map(str, words)], capture_output=True, text=True, check=False
    )


@pytest.mark.kernel
def test_the_command_prints_the_scores_and_keeps_the_items(variant_folder, tmp_path):
    options = ["--tasks", "opensci_facts,opensci_prose", "--limit", "4", "--output_dir", tmp_path]
    done = command(variant_folder("fixed"), *options)
    assert done.returncode == 0, done.stderr
    head, *rows = map(str.split, done.stdout.splitlines())
    assert head == ["task", "metric", f"{RELEASE}/hf"]
    stated = {(task, metric): float(score) for task, metric, score in rows}
    results = json.loads((tmp_path / "eval.json").read_text())["results"]
    facts = pd.read_parquet(tmp_path / "samples.parquet").query("task == 'opensci_facts'")
    assert len(facts) == 4
    assert stated["opensci_facts", "acc"] == results["opensci_facts"]["acc,none"] == facts["correct"].mean()
    bits = results["opensci_prose"]["bits_per_byte,none"]
    assert stated["opensci_prose", "bits_per_byte"] == pytest.approx(bits, rel=1e-4)
    assert len(pd.read_parquet(tmp_path / "positions.parquet")) > 100


@pytest.mark.kernel
def test_the_command_knows_no_such_task(variant_folder):
    done = command(variant_folder("fixed"), "--tasks", "opensci_facs")
    assert (done.returncode, done.stdout) == (1, "")
    said = done.stderr.splitlines()[-1]
    assert said.startswith("Error: There is no task 'opensci_facs': give one of opensci_facts, opensci_cloze, ")
    assert "Traceback" not in done.stderr
