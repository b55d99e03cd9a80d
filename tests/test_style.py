"""The linter, the formatter and the type checker have nothing to say."""

import ast
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("command", ["ruff check", "ruff format --check", "ty check opensci_lib"])
def test_clean(command):
    result = subprocess.run(
        [sys.executable, "-m", *command.split()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_are_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown"
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells) == 1
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_a_cell_holds_no_more_than_ten_statements(path):
    """Beside imports and parameters; what takes more belongs to the library, where it has a test."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
            tree = ast.parse(cell.source.replace("%matplotlib", "#"))
            imports = (ast.Import, ast.ImportFrom)
            statements = [
                node for node in ast.walk(tree) if isinstance(node, ast.stmt) and not isinstance(node, imports)
            ]
            assert len(statements) <= 10, cell.source
