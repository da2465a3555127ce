"""The run report: dataclasses to fill, and two renderings of them.

`render_html` gives one self-contained page (no script, nothing fetched), `render_markdown` the
same figures for a terminal or a pull request.
"""

from macrec.report.contents import (
    CUTOFFS,
    METRICS,
    Agreement,
    ArtifactDigest,
    CodebookLevel,
    Collisions,
    Example,
    Fact,
    Group,
    IdChurn,
    Item,
    Mark,
    Panel,
    Prefix,
    ProposedBy,
    Recommendation,
    Report,
    Role,
    Score,
    Series,
    Shown,
    System,
    Tokenizer,
)
from macrec.report.markdown import render_markdown
from macrec.report.page import render_html

__all__ = [
    "CUTOFFS",
    "METRICS",
    "Agreement",
    "ArtifactDigest",
    "CodebookLevel",
    "Collisions",
    "Example",
    "Fact",
    "Group",
    "IdChurn",
    "Item",
    "Mark",
    "Panel",
    "Prefix",
    "ProposedBy",
    "Recommendation",
    "Report",
    "Role",
    "Score",
    "Series",
    "Shown",
    "System",
    "Tokenizer",
    "render_html",
    "render_markdown",
]
