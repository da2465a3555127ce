"""The tables of the first ten places and of groups of users, on the page and in Markdown."""

import re
from dataclasses import replace
from math import nan

import pytest

from macrec.report import contents as r
from macrec.report.render import render_report, render_summary

SCORES = {
    "HR@10": r.Score(value=0.1335, low=0.1212, high=0.1462),
    "NDCG@10": r.Score(value=0.0684, low=0.0612, high=0.0754),
}
POPULAR = {"HR@10": r.Score(value=0.0447, low=0.0379, high=0.0526)}


def group(by: str, name: str, users: int) -> r.Group:
    return r.Group(by=by, name=name, users=users, scores={"Fused": SCORES, "Popular": POPULAR})


REPORT = r.Report(
    title="Run",
    systems=(
        r.System(name="Popular", role="baseline", scores=POPULAR),
        r.System(
            name="Fused",
            role="fused",
            scores=SCORES,
            shown=r.ExposureFigures(coverage=0.187, gini=0.9414, novelty=8.7),
        ),
    ),
    groups=(
        group("popularity", "head", 866),
        group("popularity", "unseen", 20),
        group("history", "3 to 5", 1923),
    ),
)


def rows(shown: str) -> list[list[str]]:
    """The cells of every row, of a page's or a Markdown text's tables."""
    if shown.startswith("<!doctype"):
        made = re.findall(r"<tr[^>]*>(.*?)</tr>", shown, re.DOTALL)
        cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in made]
        cells = [[re.sub("<[^>]+>", " ", c) for c in row] for row in cells]
    else:
        cells = [line.strip("| ").split("|") for line in shown.splitlines() if line[:1] == "|"]
    return [[" ".join(c.split()).replace("\N{NO-BREAK SPACE}", " ") for c in row] for row in cells]


@pytest.fixture(params=[render_report, render_summary])
def render(request):
    return request.param


def test_every_system_has_both_scores_with_intervals_and_what_it_shows(render) -> None:
    found = rows(render(REPORT))
    fused = ["0.1335 (0.1212–0.1462)", "0.0684 (0.0612–0.0754)", "18.7 %", "0.941", "8.70"]
    assert ["Fused", *fused] in found
    assert ["Popular", "0.0447 (0.0379–0.0526)", *["–"] * 4] in found


def test_every_group_has_its_users_and_both_systems(render) -> None:
    shown = render(REPORT)
    found = rows(shown)
    cells = ["0.1335 (0.1212–0.1462)", "0.0684 (0.0612–0.0754)", "0.0447 (0.0379–0.0526)", "–"]
    if render is render_report:
        order = [row[0] for row in found if row]
        assert order.index("Next item&#39;s popularity") < order.index("head")
        assert order.index("unseen") < order.index("History length") < order.index("3 to 5")
        assert ["head", "866", *cells] in found and ["3 to 5", "1,923", *cells] in found
    else:
        assert ["Next item's popularity: head", "866", *cells] in found
        assert ["History length: 3 to 5", "1,923", *cells] in found


def test_the_groupings_that_are_there_are_explained_and_no_others(render) -> None:
    shown = render(REPORT)
    assert "one third of the training interactions" in shown and "items before" in shown
    assert "has image codes" not in shown
    without = render(replace(REPORT, groups=()))
    assert "Groups of users" in shown and "Groups of users" not in without


def test_an_interval_without_width_is_not_shown(render) -> None:
    nobody = {name: r.Score(value=0.0, low=0.0, high=0.0) for name in SCORES}
    groups = (r.Group(by="history", name="1 to 2", users=3, scores={"Fused": nobody}),)
    shown = render(replace(REPORT, groups=groups))
    assert "(0.0000" not in shown
    assert any(row[-2:] == ["0.0000", "0.0000"] for row in rows(shown))


def test_numbers_that_are_none_are_dashes(render) -> None:
    broken = r.System(
        name="Broken",
        role="text",
        scores={"HR@10": r.Score(value=nan, low=nan, high=0.2)},
        shown=r.ExposureFigures(coverage=nan, gini=None, novelty=nan),
    )
    shown = render(replace(REPORT, systems=(broken,), groups=()))
    assert ["Broken", *["–"] * 5] in rows(shown)
    assert not re.search(r"\bnan\b|None", shown)


def test_names_from_outside_are_text_and_very_many_groups_stay_a_page(render) -> None:
    bad = "<script>alert(1)</script>|"
    many = tuple(
        r.Group(by=bad, name=bad * 50, users=k, scores={bad: SCORES, "Fused": SCORES})
        for k in range(500)
    )
    shown = render(replace(REPORT, groups=many))
    assert "<script>" not in shown and len(shown) < 200_000
    assert 50 < sum(len(row) >= 6 and "alert" in row[0] for row in rows(shown)) <= 60
