"""The table of exit codes in docs/errors.md is complete, and the messages on the page exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from macrec.core import errors
from pipelines.cluster.status import ADVICE

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "errors.md"


def test_every_exit_code_is_in_the_table_of_the_page():
    table = PAGE.read_text().partition("\n\nKFP retries")[0]
    cells = re.findall(r"^\| ([-\d, ]+) \|", table, re.MULTILINE)
    listed = {int(code) for cell in cells for code in cell.split(",")}
    raised = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert listed == {0, *raised, *ADVICE}


def texts_of(tree: ast.AST) -> Iterator[str]:
    """The texts of a program; a value inside a text is a space."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(v.value if isinstance(v, ast.Constant) else " " for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_message_that_the_page_quotes_exists():
    files = [p for name in ("src", "components", "pipelines") for p in (ROOT / name).rglob("*.py")]
    texts = "\n".join(text for path in files for text in texts_of(ast.parse(path.read_text())))
    rows = re.findall(r"^\| (`.*?`.*?) \|", PAGE.read_text(), re.MULTILINE)
    quotes = [quote for row in rows for quote in re.findall(r"`([^`]+)`", row)]
    assert len(quotes) > 40
    elsewhere = {"ImagePullBackOff"}  # what Kubernetes writes
    for quote in set(quotes) - elsewhere:
        parts = [part.strip(" :'") for part in re.split(r"\.\.\.|'[^']*'|\d+", quote)]
        assert all(part in texts for part in parts), quote
