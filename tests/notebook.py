"""What stands in an executed notebook."""

from bs4 import BeautifulSoup
from nbformat import NotebookNode


def tables(notebook: NotebookNode) -> list[list[list[str]]]:
    """Return the text of the tables' cells, row by row, their heads first."""
    return [
        [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in table.find_all("tr")]
        for page in _pages(notebook)
        for table in page.find_all("table")
    ]


def titles(notebook: NotebookNode) -> list[str]:
    """Return the findings above the figures."""
    return [caption.get_text() for page in _pages(notebook) for caption in page.find_all("figcaption")]


def _pages(notebook: NotebookNode) -> list[BeautifulSoup]:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output]
    return [BeautifulSoup(output["data"].get("text/html", ""), "html.parser") for output in outputs]
