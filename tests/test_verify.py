"""Results against their manifest, and tables against their runs: any change is named."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from opensci_lib.cli import main
from opensci_lib.errors import OpensciError
from opensci_lib.reports.compare import find_runs, parity
from opensci_lib.reports.verify import verify, write_manifest
from tests.hand_made import make_run, tensors


@pytest.fixture
def results(tmp_path) -> Path:
    """Three runs, one of them other than the rest, with their tables and the manifest."""
    folder = tmp_path / "model"
    make_run(folder)
    make_run(folder, "5.9.0", "fixed")
    make_run(folder, "5.9.0", "minimal", prompts=({"logits": -tensors()["logits"]},))
    runs = find_runs(folder)
    for name, table in zip(("parity.csv", "positions.csv"), parity(runs[0], runs), strict=True):
        table.to_csv(folder / name, index=False)
    (folder / "fixed").mkdir()
    (folder / "fixed" / "config.json").touch()
    (folder / ".pages").touch()
    write_manifest(folder)
    return folder


def test_results_that_are_as_they_were(results):
    found = verify(results)
    assert found.differences == []
    assert found.tables == ["parity.csv", "positions.csv"]
    assert found.files == 3 * 2 + 2
    shown = CliRunner().invoke(main, ["verify", str(results)])
    assert (shown.exit_code, shown.output) == (
        0, "8 files and parity.csv, positions.csv: all is as it was, and as the runs say.\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    "name", ["parity.csv", "positions.csv", "5.9.0/fixed/capture.safetensors", "4.48.0/original/run.json"]
)
def test_a_file_that_changed_is_named(results, name):
    with (results / name).open("ab") as file:
        file.write(b"\n")
    assert f"{name} is not the file that it was." in verify(results).differences


def test_files_that_went_and_came_are_named(results):
    (results / "positions.csv").unlink()
    (results / "notes.txt").touch()
    assert verify(results).differences == ["notes.txt is not in the manifest.", "positions.csv is missing."]


@pytest.mark.parametrize("old", ["True", " Rome", " Paris", "bit for bit"])
def test_a_number_that_no_run_says_is_named_though_the_manifest_has_it(results, old):
    text = (results / "parity.csv").read_text()
    assert old in text
    (results / "parity.csv").write_text(text.replace(old, "0.25", 1))
    write_manifest(results)
    [difference] = verify(results).differences
    line = text[: text.index(old)].count("\n") + 1
    assert difference.startswith(f"parity.csv, line {line}, says ")
    assert "0.25" in difference.partition(", but its runs say ")[0]


def test_a_row_that_is_missing_is_named(results):
    lines = (results / "positions.csv").read_text().splitlines(keepends=True)
    (results / "positions.csv").write_text("".join(lines[:-1]))
    write_manifest(results)
    [difference] = verify(results).differences
    assert difference.startswith(f"positions.csv, line {len(lines)}, says nothing, but its runs say ")


def test_a_capture_that_changed_shows_in_the_tables(results):
    shutil.copy(results / "5.9.0/minimal/capture.safetensors", results / "5.9.0/fixed/capture.safetensors")
    write_manifest(results)
    assert [difference[:12] for difference in verify(results).differences] == ["parity.csv, ", "positions.cs"]


def test_a_run_that_went_is_said(results):
    shutil.rmtree(results / "5.9.0" / "fixed")
    write_manifest(results)
    shown = CliRunner().invoke(main, ["verify", str(results)])
    assert shown.exit_code == 1
    assert "parity.csv can't be computed anew: " in shown.output
    assert (
        shown.output.splitlines()[-1] == f"Error: {results}: 2 differences in 6 files and parity.csv, positions.csv."
    )


def test_no_manifest(results):
    (results / "manifest.json").unlink()
    with pytest.raises(OpensciError, match=r"has no manifest\.json: run `snakemake`, which writes it"):
        verify(results)
