"""The run report: its dataclasses, and two renderers.

`render_html` returns one self-contained page, without scripts or external resources.
`render_markdown` returns the same figures for a terminal or a pull request.
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
