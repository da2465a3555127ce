"""The table of exit codes in docs/errors.md is complete."""

import re
from pathlib import Path

from macrec.core import errors
from pipelines.cluster.status import ADVICE

PAGE = Path(__file__).parent.parent / "docs" / "errors.md"


def test_every_exit_code_is_in_the_table_of_the_page():
    table = PAGE.read_text().partition("\n\nKFP retries")[0]
    cells = re.findall(r"^\| ([-\d, ]+) \|", table, re.MULTILINE)
    listed = {int(code) for cell in cells for code in cell.split(",")}
    raised = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert listed == {0, *raised, *ADVICE}
