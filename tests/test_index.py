"""The page that links a model's results."""

import json

import pytest
from bs4 import BeautifulSoup

from opensci_lib.errors import OpensciError
from opensci_lib.index import index


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
        record = {"settings": settings, "versions": {"torch": "2.13.0"}}
        (folder / run / "run.json").write_text(json.dumps(record))
        (folder / run / "infer.html").write_text("<p>")
    (folder / "5.10.4" / "fixed" / "capture.safetensors").write_bytes(bytes(3 * 2**19))
    for release in ("5.10.4", "5.9.0"):
        (folder / release / "compat.html").write_text("<p>")
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
    assert (
        len(links) == len(set(links)) == 17
    )  # one report, two of features, five runs with eleven files, three tables
    assert page.find_all("link") == page.find_all("script") == []  # and nothing is fetched
    assert sorted(path.name for path in results.iterdir() if path.suffix == ".html") == ["index.html", "summary.html"]


def test_only_reports_that_are_there_are_linked(page):
    [report] = page.select(".reports a")
    assert report["href"] == "summary.html"
    assert report.get_text() == "SummaryDoes every release compute the same? Logits, RoPE, features, and the causes."


def test_runs_ascend_by_number_and_then_by_variant(page):
    rows = [[cell.get_text() for cell in row.find_all("td")][:3] for row in page.find_all("tr")[1:]]
    assert rows == [
        ["4.48.0", "original", "float32, cpu, sdpa, torch 2.13.0"],
        ["4.48.0", "fixed", "float32, cpu, sdpa, torch 2.13.0"],
        ["5.9.0", "minimal", "float32, cpu, sdpa, torch 2.13.0"],
        ["5.9.0", "fixed", "float32, cpu, sdpa, torch 2.13.0"],
        ["5.10.4", "fixed", "bfloat16, cpu, sdpa, torch 2.13.0"],
    ]


def test_files_are_those_of_their_run(page):
    last = page.find_all("tr")[-1]
    assert [(link["href"], link.get_text()) for link in last.find_all("a")] == [
        ("5.10.4/fixed/infer.html", "infer.html"),
        ("5.10.4/fixed/run.json", "run.json"),
        ("5.10.4/fixed/capture.safetensors", "capture.safetensors"),
    ]
    assert [size.get_text() for size in last.select(".size")] == ["1 KiB", "1 KiB", "1.5 MiB"]


def test_features_are_linked_release_by_release(page):
    links = page.find("h2", string="Features, release by release").find_next("p").find_all("a")
    assert [(link["href"], link.get_text()) for link in links] == [
        ("5.9.0/compat.html", "5.9.0"), ("5.10.4/compat.html", "5.10.4"),
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
