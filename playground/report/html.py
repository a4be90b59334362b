"""The pieces that a page is made of."""

from html import escape
from pathlib import Path

from playground.run.console import printable

TEMPLATE = Path(__file__).with_name("page.html")
MOST_CHARS = 400  # of an output; the base model's go on until the limit


def write(path, content):
    """A page with this content, which is HTML already."""
    page = TEMPLATE.read_text(encoding="utf-8").replace("<!-- CONTENT -->", content)
    path.write_text(page, encoding="utf-8")


def text(value):
    """Any value as text of the page: escaped, without control characters, shortened."""
    value = printable(str(value))
    return escape(value if len(value) <= MOST_CHARS else value[:MOST_CHARS] + " ...")


def note(sentences):
    return f'<p class="note">{text(sentences)}</p>'


def table(columns, rows, attributes=""):
    """A table of cells that are HTML already."""
    head = "".join(f"<th>{column}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="scroll"><table {attributes}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
