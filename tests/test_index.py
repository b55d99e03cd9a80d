"""The page that links a model's results."""

import json
import re

import pytest

from opensci_lib.errors import OpensciError
from opensci_lib.index import index


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "org--name@iter_0002000"
    for run in ("5.10.4/fixed", "5.9.0/fixed", "4.48.0/original"):
        (folder / run).mkdir(parents=True)
        settings = {"dtype": "bfloat16", "device": "cpu", "attn_implementation": "sdpa"}
        record = {"settings": settings, "versions": {"torch": "2.13.0"}}
        (folder / run / "run.json").write_text(json.dumps(record))
        (folder / run / "infer.html").write_text("<p>")
    (folder / "5.9.0" / "compat.html").write_text("<p>")
    (folder / "summary.html").write_text("<p>")
    (folder / "parity.csv").write_text("a\n" * 3000)
    return folder


def test_every_link_leads_somewhere(results):
    page = index(results).read_text()
    links = re.findall(r'href="([^"]+)"', page)
    assert {"summary.html", "parity.csv", "5.9.0/compat.html", "5.10.4/fixed/infer.html"} <= set(links)
    assert all((results / link).is_file() for link in links)
    assert "evaluation.html" not in links  # not there yet
    assert "http" not in page


def test_releases_ascend_and_settings_are_named(results):
    page = index(results).read_text()
    assert page.index("4.48.0/original") < page.index("5.9.0/fixed") < page.index("5.10.4/fixed")
    assert "bfloat16, cpu, sdpa, torch 2.13.0" in page
    assert "<title>org--name@iter_0002000 · opensci</title>" in page


def test_an_empty_folder_gets_a_sentence(tmp_path):
    with pytest.raises(OpensciError, match="run `snakemake` first"):
        index(tmp_path)
