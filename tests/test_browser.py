"""The pages as a reader has them: in Chromium, on a laptop and on a phone, by keyboard, in the dark and on paper."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from opensci_lib.reports.index import index
from tests.hand_made import make_run, tensors
from tests.test_scores import MINIMAL, write

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[1]
REPORTS = ["summary", "evaluation", "compatibility"]
PUBLISHED = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.html"))
LAPTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


def call(program, *words):
    done = subprocess.run(
        [Path(sys.executable).with_name(program), *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results of fourteen releases, written by hand, and the pages that the pipeline makes of them."""
    folder = tmp_path_factory.mktemp("results") / "model"
    garbage = {"inv_freq": np.array([1e12, -56.25], np.float32), "cos": np.zeros((3, 4), np.float32)}
    parted = {"logits": -tensors()["logits"], "fingerprints": tensors()["fingerprints"] + [[0], [1], [1], [1]]}
    make_run(folder)
    write(folder, "4.48.0/original")
    for minor in range(13):
        wrong = {**garbage, **parted, "inv_freq": np.array([minor, 1], np.float32)}
        make_run(folder, f"5.{minor}.0", "minimal", prompts=(wrong,))
        make_run(folder, f"5.{minor}.0", "fixed")
        write(folder, f"5.{minor}.0/minimal", **MINIMAL)
        write(folder, f"5.{minor}.0/fixed")
        checks = [
            {
                "variant": variant,
                "group": "rope",
                "feature": "turns",
                "result": result,
                "seconds": 1.0,
                "error": error,
            }
            for variant, result, error in (("fixed", "ok", ""), ("minimal", "fails", "It does not."))
        ]
        (folder / f"5.{minor}.0" / "compat.json").write_text(
            json.dumps({"tf_version": f"5.{minor}.0", "results": checks})
        )
    for name in REPORTS:
        call("papermill", f"notebooks/{name}.ipynb", folder / f"{name}.ipynb", "-p", "output_dir", folder)
    options = "--to html --TemplateExporter.extra_template_basedirs=opensci_lib/reports --template pages"
    call("jupyter-nbconvert", *options.split(), *(folder / f"{name}.ipynb" for name in REPORTS))
    index(folder)
    return folder


@pytest.fixture
def visit(chromium):
    """Return a function that opens a file; whatever the page complains of or asks for stands in `page.told`."""
    contexts = []

    def visit(path, size=LAPTOP, **options):
        contexts.append(chromium.new_context(viewport=size, **options))
        page = contexts[-1].new_page()
        page.told = []
        page.on("console", lambda message: page.told.append(message.text))
        page.on("pageerror", lambda error: page.told.append(str(error)))
        page.on(
            "request", lambda request: page.told.append(request.url) if not request.url.startswith("data:") else None
        )
        page.goto(path.as_uri())
        assert page.told.pop(0) == path.as_uri()
        return page

    yield visit
    for context in contexts:
        context.close()


def check(page):
    """Whatever the page, the width or the light: no complaint, no request, no sideways scrolling, nothing for axe."""
    for folded in page.locator("details > summary").all():
        folded.click()
    assert page.told == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    for figure in page.locator("figure").all():  # nbconvert gives what has no alternative text one that says nothing
        said = " ".join(figure.locator("figcaption").inner_text().split())
        assert figure.locator("img").get_attribute("alt").startswith(f"{said}. In the picture: ")


@pytest.mark.parametrize("light", ["light", "dark"])
@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
@pytest.mark.parametrize("name", [*REPORTS, "index"])
def test_a_report_has_no_fault(results, visit, name, size, light):
    check(visit(results / f"{name}.html", size, color_scheme=light))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_page_has_no_fault_and_is_small(visit, name):
    path = ROOT / "docs" / name
    assert path.stat().st_size < 2e6
    check(visit(path, PHONE))


@pytest.mark.parametrize("name", [*REPORTS, "index"])
def test_the_finding_stands_first(results, visit, name):
    page = visit(results / f"{name}.html")
    box = page.locator("blockquote").bounding_box()
    assert box["y"] + box["height"] < 300
    assert page.locator("h1").bounding_box()["y"] < box["y"]
    assert page.locator("main > :nth-child(n+2)").first.is_visible()


def first_column(table):
    return [row.locator("td").first.inner_text() for row in table.locator("tbody tr").all() if row.is_visible()]


def test_a_long_table_folds_and_sorts_by_keyboard(results, visit):
    page = visit(results / "index.html")
    table = page.locator("table")
    releases = ["4.48.0", *(f"5.{minor}.0" for minor in range(13))]
    assert first_column(table) == releases[:10]
    page.get_by_role("button", name="Show all 14 rows").press("Enter")
    assert first_column(table) == releases
    head = table.locator("th").first
    expect(head).not_to_have_attribute("aria-sort", "ascending")
    head.get_by_role("button").press("Enter")
    expect(head).to_have_attribute("aria-sort", "ascending")
    assert first_column(table) == releases  # 5.10.0 after 5.9.0
    head.get_by_role("button").press("Space")
    expect(head).to_have_attribute("aria-sort", "descending")
    assert first_column(table) == releases[::-1]
    page.get_by_role("button", name="Show 10 rows").click()
    assert first_column(table) == releases[:3:-1]
    other = table.locator("th", has_text="minimal")
    other.get_by_role("button").click()
    expect(other).to_have_attribute("aria-sort", "ascending")
    assert head.get_attribute("aria-sort") is None
    assert table.locator("tbody tr").last.locator("td").first.inner_text() == "4.48.0"  # what is empty stays last


def test_numbers_sort_as_numbers(visit, tmp_path):
    values = ["-1", "10", "9.5", "-10", "0.5", "NaN", "1e-05", "", "98.8 %", "100 %"]
    rows = "".join(f"<tr><td>{value}</td></tr>" for value in values)
    script = (ROOT / "opensci_lib" / "reports" / "pages" / "script.js").read_text()
    page = tmp_path / "page.html"
    page.write_text(
        f"<table><thead><tr><th>n</th></tr></thead><tbody>{rows}</tbody></table><script>{script}</script>"
    )
    page = visit(page)
    page.get_by_role("button", name="n").click()
    ascending = ["-10", "-1", "1e-05", "0.5", "9.5", "10", "98.8 %", "100 %", "NaN", ""]
    assert first_column(page.locator("table")) == ascending


def test_numbers_stand_on_the_right(results, visit):
    page = visit(results / "evaluation.html")
    table = page.locator("table").first
    heads = [head.inner_text().split(" ")[0] for head in table.locator("th").all()]
    cell = table.locator("tbody tr").first.locator("td")
    align = {
        name: cell.nth(place).evaluate("cell => getComputedStyle(cell).textAlign") for place, name in enumerate(heads)
    }
    assert [align[name] for name in ("variant", "task", "reference", "change")] == ["left", "left", "right", "right"]


def test_code_and_details_are_folded_until_asked_for_or_printed(results, visit):
    page = visit(results / "summary.html", {"width": 720, "height": 1000}, color_scheme="dark")
    code, details = page.locator("details.code pre").first, page.locator("details:not(.code) table").first
    assert not code.is_visible()
    assert not details.is_visible()
    page.locator("details:not(.code) > summary").first.press("Enter")
    assert details.is_visible()
    page.reload()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert details.is_visible()
    assert not code.is_visible()
    assert not page.locator("tr.folded >> visible=false").count()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_a_report_leads_back_to_the_others(results, visit):
    page = visit(results / "summary.html")
    page.get_by_role("link", name="model").click()
    assert page.url == (results / "index.html").as_uri()
    page.get_by_role("link", name="Scores").click()
    assert page.url == (results / "evaluation.html").as_uri()
