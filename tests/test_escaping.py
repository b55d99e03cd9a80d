"""What comes from a model or a folder is text in a report, whatever it says; secrets and homes are in none."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from playwright.sync_api import sync_playwright

from opensci_lib import project
from opensci_lib.errors import OpensciError
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


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Results of a model that says such things wherever a model or its folder is asked."""
    outputs = tmp_path_factory.mktemp("outputs") / "<b class=evil>bold<!--"
    for tf_version, variant in (("4.48.0", "original"), ("5.9.0", "minimal"), ("5.9.0", "fixed")):
        evil_run(outputs, tf_version, variant)
        answers = "aBaaa" if variant != "minimal" else "BBBaa"
        write(outputs, f"{tf_version}/{variant}", answers, edit=evil_texts)
    failed = {"tf_version": "5.10.0", "output_dir": str(outputs / "5.10.0")}
    for record in ("run.json", "eval.json", "compat.json"):
        record_failure(record, f"It does not load ({EVIL}).", failed)
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


TOKEN, SOMEBODY = "hf_secretsecretsecret", "somebody"


@pytest.fixture(scope="module")
def pages(results, tmp_path_factory) -> dict[str, Path]:
    """The pages that are made of them, by somebody with a token and a home."""
    folder = tmp_path_factory.mktemp("pages")
    home = folder / SOMEBODY
    home.mkdir()
    variables = {"HF_TOKEN": TOKEN, "HOME": str(home)}
    asked = {name: {"output_dir": str(results)} for name in ("summary", "evaluation", "compatibility")}
    notebooks = {}
    for name, parameters in {**asked, "family": {"output_dirs": [str(results)]}}.items():
        notebooks[name] = folder / f"{name}.ipynb"
        words = ["papermill", "--no-progress-bar", f"notebooks/{name}.ipynb", notebooks[name], "-y"]
        call(*words, json.dumps(parameters), **variables)
    call("jupyter-nbconvert", *PAGES, *notebooks.values(), **variables)
    call("opensci", "index", "--output_dir", results, **variables)
    return {**{name: path.with_suffix(".html") for name, path in notebooks.items()}, "index": results / "index.html"}


@pytest.mark.parametrize("name", ["summary", "evaluation", "compatibility", "family", "index"])
def test_reports(pages, name):
    """Neither markup nor the token and the home of whoever ran it."""
    check_page(pages[name])
    for file in pages[name].parent.glob(f"{name}.*"):
        assert TOKEN not in file.read_text()
        assert f"/{SOMEBODY}" not in file.read_text()


@pytest.mark.kernel
def test_the_notebook_of_a_run(miniature, tmp_path, request):
    model = shutil.copytree(miniature, tmp_path / "<b class=evil>bold<!--")
    request.addfinalizer(lambda: shutil.rmtree(project.OUTPUTS / model.name, ignore_errors=True))
    asked = {"tf_version": "5.2.0", "model": str(model), "variants": ["fixed"], "prompts": [EVIL]}
    out = tmp_path / "infer.ipynb"
    words = ["papermill", "--no-progress-bar", "notebooks/infer.ipynb", out, "-y"]
    call(*words, json.dumps({**asked, "output_dir": str(tmp_path / "5.2.0")}))
    call("jupyter-nbconvert", *PAGES, out)
    check_page(out.with_suffix(".html"))


@pytest.mark.browser
def test_in_a_browser(pages):
    """No script ran, no picture was asked for, and what was said can be read."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for path in pages.values():
            page = chromium.new_page()
            asked = []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(path.as_uri())
            assert page.title() != "evil"
            assert page.locator(".evil").count() == 0
            assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
            assert "class=evil" in page.locator("body").text_content()


def test_homes_are_written_as_shells_do(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert OpensciError("/home/somebody/models/a has no b.").message == "~/models/a has no b."
    assert OpensciError("/home/somebody2 is no folder.").message == "/home/somebody2 is no folder."
    monkeypatch.setenv("HOME", "/")
    assert OpensciError("/a has no b.").message == "/a has no b."
