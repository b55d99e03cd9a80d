"""What stands in an executed notebook."""

from bs4 import BeautifulSoup
from nbformat import NotebookNode


def tables(notebook: NotebookNode) -> list[list[list[str]]]:
    """Return the text of the tables' cells, row by row, their heads first."""
    pages = [BeautifulSoup(data["text/html"], "html.parser") for data in _data(notebook) if "text/html" in data]
    return [
        [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in table.find_all("tr")]
        for page in pages
        for table in page.find_all("table")
    ]


def titles(notebook: NotebookNode) -> list[str]:
    """Return the titles of the figures."""
    return [data["text/plain"] for data in _data(notebook) if "image/png" in data]


def _data(notebook: NotebookNode) -> list[dict]:
    return [output["data"] for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output]
