"""What became of the IDs of an earlier run, on the page and in the summary."""

from macrec.report import contents as r
from macrec.report.render import render_report, render_summary

SHARE = "25.00\N{NO-BREAK SPACE}%"


def report(*churn: r.IdChurn) -> r.Report:
    return r.Report(title="A run", churn=churn)


def test_both_renderings_show_the_counts_and_the_share() -> None:
    full = report(
        r.IdChurn(modality="text", kept=3_000, moved=1_000, new=20, gone=7),
        r.IdChurn(modality="image", kept=0, moved=0, new=9, gone=0),
    )
    page, summary = render_report(full), render_summary(full)
    assert f"| text | 3,000 | 1,000 | 20 | 7 | {SHARE} |" in summary
    assert "| image | 0 | 0 | 9 | 0 | \N{EN DASH} |" in summary
    for cell in ("3,000", "1,000", "20", "7", SHARE, "\N{EN DASH}"):
        assert f"<td>{cell}</td>" in page
    assert "Since the earlier run" in page and "### Since the earlier run" in summary


def test_without_an_earlier_run_there_is_no_section() -> None:
    assert "earlier run" not in render_report(report())
    assert "earlier run" not in render_summary(report())
