"""What comes from a model or a folder is text in a report, whatever it says; secrets and homes are in none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from opensci_lib.errors import OpensciError
from opensci_lib.reports.compare import find_runs, parity
from opensci_lib.runs.failure import record_failure
from tests.hand_made import make_run, tensors
from tests.test_scores import facts, recall, write

ROOT = Path(__file__).parents[1]
#: Marks up, breaks out of an attribute, closes what it stands in, and loads from elsewhere.
EVIL = "<script>document.title='evil'</script><img src=x onerror=evil()>\"'></td></pre></style><b class=evil>bold</b>"
TEMPLATE = ["--TemplateExporter.extra_template_basedirs=opensci_lib/reports", "--template", "pages"]
PAGES = ["--to", "html", "--embed-images", *TEMPLATE]


def call(*words: object, **variables: str) -> subprocess.CompletedProcess:
    program = Path(sys.executable).with_name(str(words[0]))
    environment = {**os.environ, **variables}
    done = subprocess.run(
        [program, *map(str, words[1:])], cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done


def evil_run(outputs: Path, tf_version: str, variant: str, **changes) -> None:
    top = [[{"token": EVIL, "logit": 4.0}, {"token": f"{EVIL}2", "logit": 1.5}]] * 2
    made = make_run(outputs, tf_version, variant, ({}, tensors(5)), completions=[EVIL, EVIL], top_tokens=top)
    record = json.loads((made.path / "run.json").read_text())
    record["settings"]["dtype"] = record["versions"]["torch"] = EVIL
    record["tokens"] = [[EVIL] * len(tokens) for tokens in record["tokens"]]
    (made.path / "run.json").write_text(json.dumps({**record, **changes}))


@pytest.fixture
def results(tmp_path) -> Path:
    """Results of a model that says such things wherever a model or its folder is asked."""
    outputs = tmp_path / "outputs" / "<b class=evil>bold<!--"
    for tf_version, variant in (("4.48.0", "original"), ("5.9.0", "minimal"), ("5.9.0", "fixed")):
        evil_run(outputs, tf_version, variant)
        answers = "aBaaa" if variant != "minimal" else "BBBaa"
        write(outputs, f"{tf_version}/{variant}", answers, edit=evil_texts)
    record_failure(
        "run.json", f"It does not load ({EVIL}).", {"tf_version": "5.10.0", "output_dir": str(outputs / "5.10.0")}
    )
    record_failure(
        "eval.json", f"It failed ({EVIL}).", {"tf_version": "5.10.0", "output_dir": str(outputs / "5.10.0")}
    )
    return outputs


def evil_texts(samples, positions):
    assert len(samples) == len(facts()) + len(recall()[0])
    samples["text"] = samples["text"] + EVIL
    samples["prediction"] = samples["prediction"].where(samples["prediction"] == "", samples["prediction"] + EVIL)
    return samples, positions


def check_page(page: Path) -> None:
    """Check that nothing of it became an element or an attribute, and that it is there to be read."""
    text = page.read_text()
    soup = BeautifulSoup(text, "html.parser")
    assert not soup.select(".evil"), soup.select(".evil")[0].parent
    assert not [element for element in soup.find_all(True) if element.get("onerror")]
    assert not [script for script in soup.find_all("script") if "evil" in script.get_text()]
    assert not [image for image in soup.find_all("img") if image.get("src") == "x"]


@pytest.mark.parametrize("name", ["summary", "evaluation"])
def test_reports(results, tmp_path, name):
    """Neither markup nor the token and the home of whoever ran it."""
    token, home = "hf_secretsecretsecret", tmp_path / "home" / "somebody"
    home.mkdir(parents=True)
    out = tmp_path / f"{name}.ipynb"
    variables = {"HF_TOKEN": token, "HOME": str(home)}
    call("papermill", "--no-progress-bar", f"notebooks/{name}.ipynb", out, "-p", "output_dir", results, **variables)
    call("jupyter-nbconvert", *PAGES, out, **variables)
    page = out.with_suffix(".html")
    check_page(page)
    assert "document.title='evil'" in BeautifulSoup(page.read_text(), "html.parser").get_text()
    for file in (out, page):
        assert token not in file.read_text()
        assert str(home) not in file.read_text()


def test_the_index(results):
    runs = find_runs(results)
    parity(runs[0], runs)[0].to_csv(results / "parity.csv", index=False)
    call("opensci", "index", "--output_dir", results)
    check_page(results / "index.html")


def test_homes_are_written_as_shells_do(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert OpensciError("/home/somebody/models/a has no b.").message == "~/models/a has no b."
    assert OpensciError("/home/somebody2 is no folder.").message == "/home/somebody2 is no folder."
    monkeypatch.setenv("HOME", "/")
    assert OpensciError("/a has no b.").message == "/a has no b."
