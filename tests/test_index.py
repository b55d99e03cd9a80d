"""The page that opens a model's results."""

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from opensci_lib.errors import OpensciError
from opensci_lib.reports.index import index

NAN = float("nan")
PARITY = [
    ("5.10.4", "fixed", 3, True, 0.0), ("5.9.0", "fixed", 3, False, 0.5), ("5.9.0", "minimal", 0, False, NAN),
    ("4.48.0", "original", 3, True, 0.0), ("4.48.0", "fixed", 3, True, 0.0),
]  # fmt: skip
SCORES = [
    ("5.10.4", "fixed", "facts", True), ("5.10.4", "fixed", "prose", False), ("4.48.0", "original", "facts", False),
    ("4.48.0", "fixed", "facts", True), ("4.48.0", "fixed", "prose", True),
]  # fmt: skip
FEATURES = [
    ("4.48.0", "fixed", "auto", "loads", "ok"), ("4.48.0", "fixed", "rope", "turns", "unsupported by this release"),
    ("4.48.0", "minimal", "auto", "loads", "fails"), ("5.11.0", "fixed", "auto", "loads", "ok"),
]  # fmt: skip


def write_csv(path, columns, rows):
    pd.DataFrame(rows, columns=columns.split()).to_csv(path, index=False)


@pytest.fixture
def results(tmp_path):
    """Releases in another order than that of their numbers, and one that has a page and no logits."""
    folder = tmp_path / "2024" / "org--name@iter_0002000"
    for run in ("4.48.0/original", "5.9.0/minimal"):
        (folder / run).mkdir(parents=True)
        (folder / run / "run.json").write_text("{}")
    (folder / "4.48.0" / "original" / "capture.safetensors").write_bytes(bytes(3 * 2**19))
    for page in ("4.48.0/infer", "5.10.4/infer", "5.10.4/compat", "5.9.0/evaluate", "5.11.0/compat"):
        (folder / page).parent.mkdir(exist_ok=True)
        (folder / f"{page}.html").write_text("<p>")
    for report in ("summary", "compatibility", "notes"):
        (folder / f"{report}.html").write_text("<p>")
    write_csv(folder / "parity.csv", "tf_version variant positions bitwise_equal max_abs_diff", PARITY)
    write_csv(folder / "evaluation.csv", "tf_version variant task equal", SCORES)
    write_csv(folder / "compat.csv", "tf_version variant group feature result", FEATURES)
    (folder / "parity.png").write_bytes(bytes(2**20 - 1))
    return folder


@pytest.fixture
def page(results):
    path = index(results)
    assert path == results / "index.html"
    return BeautifulSoup(path.read_text(), "html.parser")


def test_every_link_leads_somewhere_and_nothing_is_fetched(results, page):
    links = [link["href"] for link in page.find_all("a")]
    assert all((results / link).is_file() for link in links)
    # two reports, five pages, two runs with three files, three tables and a picture
    assert len(links) == len(set(links)) == 14
    assert [link["href"] for link in page.find_all("link")] == ["data:,"]
    assert [script.get("src") for script in page.find_all("script")] == [None]
    assert page.img["src"].startswith("data:image/png;base64,")
    assert not (results / ".index.html").exists()


def test_the_verdict_stands_first_and_then_the_picture(page):
    first, second = page.h1.find_next_siblings()[:2]
    assert first.get_text() == (
        "The fixed folder computes the same logits on 2 of 3 releases, bit for bit; minimal differs on 1 of 1."
    )
    assert second.figcaption.get_text() == (
        "Releases whose logits are the reference's, bit for bit: original 1 of 1, minimal 0 of 1, fixed 2 of 3"
    )


def test_the_releases_say_what_they_are_held_against(page):
    assert page.h2.find_next_sibling("p").get_text() == "The reference is the original on 4.48.0."
    assert page.caption.get_text().startswith("Logits of each folder against the original on 4.48.0; ")


def test_a_card_tells_the_finding_of_each_report_that_is_there(page):
    cards = {card["href"]: card.get_text("|") for card in page.select(".cards a")}
    assert list(cards) == ["summary.html", "compatibility.html"]
    assert cards["summary.html"].startswith(
        "Logits|Releases whose logits are the reference's, bit for bit: original 1 of"
    )
    assert cards["compatibility.html"] == (
        "Features|Of 3 checks of the fixed folder on 2 releases none failed; "
        "1 ask for what the release does not support."
    )


def test_a_release_is_a_row(page):
    rows = [[cell.get_text().strip() for cell in row.find_all(["th", "td"])] for row in page.table.find_all("tr")]
    assert rows == [
        ["transformers", "original", "minimal", "fixed", "scores", "features", "pages"],
        ["4.48.0", "equal", "", "equal", "equal", "1 of 2 checks ok, 1 unsupported by the release", "logits"],
        ["5.9.0", "", "failed", "off by 0.5", "", "", "scores"],
        ["5.10.4", "", "", "equal", "differ", "", "logits · features"],
        ["5.11.0", "", "", "", "", "1 of 1 checks ok", "features"],
    ]
    assert [cell.get_text() for cell in page.select("td.differs")] == ["failed", "off by 0.5", "differ"]


def test_pages_are_those_of_their_release(page):
    row = page.find("td", string="5.10.4").parent
    assert [link["href"] for link in row.find_all("a")] == ["5.10.4/infer.html", "5.10.4/compat.html"]


def test_data_have_their_sizes(page):
    data, *runs = [
        " ".join(part.get_text().split())
        for part in [page.find("h2", string="Data").find_next("p"), *page.select("details li")]
    ]
    assert data.split(", ")[-1] == "parity.png 1024 KiB"
    assert runs == [
        "4.48.0/original: run.json 1 KiB, capture.safetensors 1.5 MiB", "5.9.0/minimal: run.json 1 KiB",
    ]  # fmt: skip


def test_the_page_names_the_model(results, page):
    assert page.title.get_text() == "org--name@iter_0002000 · opensci"
    assert page.h1.get_text() == "org--name@iter_0002000"
    other = BeautifulSoup(index(results, title="a<i>&c").read_text(), "html.parser")
    assert other.h1.get_text() == "a<i>&c"


def test_logits_alone_are_enough(tmp_path):
    write_csv(tmp_path / "parity.csv", "tf_version variant positions bitwise_equal max_abs_diff", PARITY)
    page = BeautifulSoup(index(tmp_path).read_text(), "html.parser")
    assert len(page.table.find_all("tr")) == 4
    assert page.select(".cards a") == page.select("details") == []


def test_an_empty_folder_gets_a_sentence(tmp_path):
    with pytest.raises(OpensciError) as error:
        index(tmp_path)
    assert str(error.value) == f"{tmp_path} holds no parity.csv: run `snakemake` first."
