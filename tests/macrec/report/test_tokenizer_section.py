"""The section on semantic IDs: figures, charts and explanations, on the page and in Markdown."""

import re
from dataclasses import replace
from math import inf, nan

import pytest

from macrec.report import contents as r
from macrec.report import derived, explanations
from macrec.report.render import render_report, render_summary
from tests.small_report import Page


def score(value: float, error: float) -> r.Score:
    return r.Score(value=value, low=value - error, high=value + error)


def measured(modality: r.Modality = "text") -> r.Tokenizer:
    first = r.Prefix(
        unexplained=0.7,
        recall=0.64,
        candidates=0.0326,
        lift=score(4.89, 0.16),
        validation_lift=score(31.8, 4.5),
    )
    second = r.Prefix(unexplained=0.5, recall=0.1564, candidates=0.00016, lift=score(1.004, 0.02))
    return r.Tokenizer(modality=modality, prefixes=(first, second))


def full() -> r.Report:
    return r.Report(
        title="Run",
        codebooks=(r.CodebookLevel(modality="text", level=0, counts=(6, 2, 0, 0)),),
        collisions=(
            r.Collisions(
                modality="text",
                rate_before=0.0384,
                rate_after=0.0,
                moved=1514,
                group_sizes={2: 11},
                moved_by_level=(14, 1500),
                displacement=0.966,
            ),
        ),
        tokenizers=(measured("text"), measured("image")),
        agreement=(
            r.Agreement(mutual=0.645, adjusted=0.605),
            r.Agreement(mutual=0.265, adjusted=-0.0121),
        ),
    )


ROWS = [
    ["first 1", "70.0\u00a0%", "64.0\u00a0%", "3.26\u00a0%", "4.9 \u00b1 0.2", "32 \u00b1 4"],
    ["all 2", "50.0\u00a0%", "15.6\u00a0%", "0.02\u00a0%", "1.00 \u00b1 0.02", "\u2013"],
]


HEADS = ["Unexplained", "Recall", "Chance", "Lift", "Validation lift"]


def rows(summary: str, first: str) -> list[list[str]]:
    """Return the rows below the head of a table in the summary, by the head of its first column."""
    lines = summary.split(f"\n| {first} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [line.strip("| ").split(" | ") for line in lines]


def test_the_page_shows_every_figure_of_both_modalities() -> None:
    page = Page(render_report(full()))
    assert page.open == []
    regions = [a["aria-label"] for a in page.named("div") if a.get("role") == "region"]
    tables = ["Text codes", "Text codes", "Image codes", "Text codes and image codes"]
    assert regions == [*tables, "Collisions"]  # the first is of the codebook use
    for cell in (*ROWS[0], *ROWS[1], "0.605", "14, 1,500", "0.97"):
        assert cell in page.words
    charts = {a["aria-label"] for a in page.named("svg")}
    assert charts >= {
        "Unexplained variance",
        "Neighbour recall",
        "Lift of consecutive items",
        "Agreement of text and image codes",
    }


def test_markdown_has_the_same_rows() -> None:
    written = render_summary(full())
    for modality in ("Text", "Image"):
        assert f"\n| {modality} codes | {' | '.join(HEADS)} |\n" in written
        assert rows(written, f"{modality} codes") == ROWS
    assert rows(written, "Text and image") == [
        ["level 0", "0.645", "0.605"],
        ["level 1", "0.265", "\u22120.012"],
    ]
    assert "| text | 3.84\u00a0% | 0.00\u00a0% | 1,514 | 11 of 2 | 14, 1,500 | 0.97 |" in written
    order = [
        written.index(f"{h}\n")
        for h in (
            "## Semantic IDs",
            "### Codebook use",
            "### Quality of the codes",
            "### Collisions",
        )
    ]
    assert order == sorted(order)


def test_every_column_is_explained_and_says_what_is_good() -> None:
    explained = " ".join([*explanations.CODES, *explanations.CODES.values()])
    assert not {head for head in (*HEADS, "Agreement", "Adjusted") if head not in explained}
    page, written = Page(render_report(full())).text, render_summary(full())
    for name, meaning in explanations.CODES.items():
        assert meaning in page
        assert f"- {name}: {meaning}" in written


def test_charts_start_where_no_code_is_kept() -> None:
    left, neighbours, lift, agreement = derived.code_panels(full())
    assert [series.role for series in left.series] == ["text", "image"]
    assert left.series[0].x == (0, 1, 2)
    assert left.series[0].y == pytest.approx((100, 70, 50))
    assert neighbours.series[1].y == pytest.approx((100, 64, 15.64))
    assert lift.series[0].y == (1, 4.89, 1.004)
    assert [(s.name, s.x, s.y) for s in agreement.series] == [
        ("plain", (0, 1), (0.645, 0.265)),
        ("adjusted", (0, 1), (0.605, -0.0121)),
    ]


@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_run_on_one_modality_has_its_table_alone(modality: r.Modality) -> None:
    report = replace(full(), tokenizers=(measured(modality),), agreement=())
    page, written = Page(render_report(report)).text, render_summary(report)
    for shown in (page, written):
        assert "Quality of the codes" in shown
        assert "Validation lift" in shown and "Agreement" not in shown
    assert all(len(panel.series) == 1 for panel in derived.code_panels(report))
    assert len(derived.code_panels(report)) == 3


def test_without_measures_there_is_neither_table_nor_explanation() -> None:
    for report in (
        replace(full(), tokenizers=(), agreement=()),
        replace(full(), tokenizers=(r.Tokenizer(modality="text", prefixes=()),), agreement=()),
    ):
        page, written = Page(render_report(report)).text, render_summary(report)
        assert "Quality of the codes" not in page + written
        assert "Validation lift" not in page + written
    assert "Semantic IDs" not in render_report(r.Report(title="Run"))


def test_figures_that_quantize_did_not_tell_are_dashes_and_have_no_chart() -> None:
    bare = r.Prefix(lift=score(2.0, 0.5))
    report = replace(full(), tokenizers=(r.Tokenizer(modality="text", prefixes=(bare,)),))
    assert rows(render_summary(report), "Text codes") == [
        ["all 1", *["\u2013"] * 3, "2.0 \u00b1 0.5", "\u2013"]
    ]
    titles = [panel.title for panel in derived.code_panels(report)]
    assert titles == ["Lift of consecutive items", "Agreement of text and image codes"]


@pytest.mark.parametrize("broken", [nan, inf, -inf])
def test_numbers_that_are_none_are_dashes(broken: float) -> None:
    prefix = r.Prefix(
        unexplained=broken,
        recall=broken,
        candidates=broken,
        lift=r.Score(value=broken, low=broken, high=broken),
        validation_lift=r.Score(value=3.25, low=broken, high=broken),
    )
    report = replace(
        full(),
        tokenizers=(r.Tokenizer(modality="text", prefixes=(prefix,)),),
        agreement=(r.Agreement(mutual=broken, adjusted=None),),
    )
    assert rows(render_summary(report), "Text codes") == [["all 1", *["\u2013"] * 4, "3.2"]]
    assert derived.code_panels(report) == []
    for shown in (render_report(report), render_summary(report)):
        assert not re.search(r"\b(nan|inf)\b", shown)


def test_very_many_levels_stay_a_page() -> None:
    prefixes = (r.Prefix(recall=0.5, lift=score(2, 0.1)),) * 400
    many = tuple(r.Agreement(mutual=0.1, adjusted=0.1) for _ in range(400))
    report = replace(
        full(), tokenizers=(r.Tokenizer(modality="text", prefixes=prefixes),), agreement=many
    )
    summary = render_summary(report)
    assert len(rows(summary, "Text codes")) == len(rows(summary, "Text and image")) == 16
    assert len(render_report(report)) < 100_000


def test_both_renderings_show_the_usage_of_a_level() -> None:
    """Two of four codes with 6 and 2 items: exp of the entropy is 1.755, the Gini index 0.625."""
    assert "| text 0 | 2 of 4 | 50.0\u00a0% | 1.8 | 0.62 | 75.0\u00a0% |" in render_summary(full())
    assert "<td>2 of 4</td><td>1.8</td><td>0.62</td><td>75.0\u00a0%</td>" in render_report(full())
