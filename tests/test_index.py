"""The page that links a model's results."""

import json

import pytest
from bs4 import BeautifulSoup

from opensci_lib.errors import OpensciError
from opensci_lib.reports.index import index


@pytest.fixture
def results(tmp_path):
    """Runs of three releases, found in another order than that of their numbers."""
    folder = tmp_path / "2024" / "org--name@iter_0002000"
    for run, dtype in (
        ("5.10.4/fixed", "bfloat16"), ("5.9.0/fixed", "float32"), ("5.9.0/minimal", "float32"),
        ("4.48.0/original", "float32"), ("4.48.0/fixed", "float32"),
    ):  # fmt: skip
        (folder / run).mkdir(parents=True)
        settings = {"dtype": dtype, "device": "cpu", "attn_implementation": "sdpa"}
        record = {"variant": run.split("/")[1], "settings": settings, "versions": {"torch": "2.13.0"}}
        (folder / run / "run.json").write_text(json.dumps(record))
    (folder / "5.9.0/minimal/run.json").write_text('{"error": "It does not <load>."}')
    (folder / "5.10.4" / "fixed" / "capture.safetensors").write_bytes(bytes(3 * 2**19))
    (folder / "5.11.0").mkdir()
    for page in ("4.48.0/infer", "5.10.4/infer", "5.10.4/compat", "5.9.0/evaluate", "5.11.0/compat"):
        (folder / f"{page}.html").write_text("<p>")
    (folder / "summary.html").write_text("<p>")
    for name, size in (("parity.csv", 6000), ("compat.csv", 0), ("parity.png", 2**20 - 1), ("notes.txt", 1)):
        (folder / name).write_bytes(bytes(size))
    return folder


@pytest.fixture
def page(results):
    path = index(results)
    assert path == results / "index.html"
    return BeautifulSoup(path.read_text(), "html.parser")


def test_every_link_leads_somewhere(results, page):
    links = [link["href"] for link in page.find_all("a")]
    assert all((results / link).is_file() for link in links)
    # one report, five pages, five runs with six files, three tables
    assert len(links) == len(set(links)) == 15
    assert page.find_all("link") == page.find_all("script") == []  # and nothing is fetched
    assert sorted(path.name for path in results.iterdir() if path.suffix == ".html") == ["index.html", "summary.html"]


def test_only_reports_that_are_there_are_linked(page):
    [report] = page.select(".reports a")
    assert report["href"] == "summary.html"
    assert report.get_text() == "SummaryDoes every release compute the same? Logits, RoPE, and the causes."


def _rows(page):
    return [[cell.get_text().strip() for cell in row.find_all("td")] for row in page.find_all("tr")[1:]]


def test_releases_ascend_by_number_and_runs_by_variant(page):
    same = "float32, cpu, sdpa, torch 2.13.0"
    assert _rows(page) == [
        ["4.48.0", "infer.html 1 KiB", "original", same, "run.json 1 KiB"],
        ["fixed", same, "run.json 1 KiB"],
        ["5.9.0", "evaluate.html 1 KiB", "minimal", "failed: It does not <load>.", "run.json 1 KiB"],
        ["fixed", same, "run.json 1 KiB"],
        [
            "5.10.4", "infer.html 1 KiB, compat.html 1 KiB", "fixed", "bfloat16, cpu, sdpa, torch 2.13.0",
            "run.json 1 KiB, capture.safetensors 1.5 MiB",
        ],
        ["5.11.0", "compat.html 1 KiB", ""],
    ]  # fmt: skip


def test_pages_are_those_of_their_release_and_files_those_of_their_run(page):
    row = page.find("td", string="5.10.4").parent
    assert [link["href"] for link in row.find_all("a")] == [
        "5.10.4/infer.html", "5.10.4/compat.html", "5.10.4/fixed/run.json", "5.10.4/fixed/capture.safetensors",
    ]  # fmt: skip


def test_tables_and_pictures_have_their_sizes(page):
    rows = [row.get_text().split("\n")[0].strip() for row in page.find_all("li")]
    assert rows == ["compat.csv 0 KiB", "parity.csv 6 KiB", "parity.png 1024 KiB"]


def test_the_page_names_the_model(page):
    assert page.title.get_text() == "org--name@iter_0002000 · opensci"
    assert page.h1.get_text() == "org--name@iter_0002000"


def test_names_are_text_not_html(tmp_path):
    folder = tmp_path / "a<b>&c"
    (folder / "4.48.0" / "fixed").mkdir(parents=True)
    record = {"settings": {"dtype": "<i>", "device": "", "attn_implementation": ""}, "versions": {"torch": ""}}
    (folder / "4.48.0" / "fixed" / "run.json").write_text(json.dumps(record))
    page = BeautifulSoup(index(folder).read_text(), "html.parser")
    assert page.h1.get_text() == "a<b>&c"
    assert page.find("i") is None


def test_an_empty_folder_gets_a_sentence(tmp_path):
    with pytest.raises(OpensciError) as error:
        index(tmp_path)
    assert str(error.value) == f"{tmp_path} holds no results: run `snakemake` first."
