import base64
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from math import inf, isfinite, nan

import pytest

from macrec import report as r
from macrec.report import charts, numbers
from macrec.report.lines import MAX_POINTS, line_chart
from macrec.report.markdown import escape
from macrec.report.markup import Raw, clean, data_image, el
from macrec.report.scale import axis, spread
from macrec.report.sections import group_bins
from macrec.report.style import CSS

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "[link](https://evil.example/x) ![p](//evil.example/p.png)",
    "a | b\n## heading `code` **bold** | c",
    "</title></style></svg></table><iframe src=//evil.example>",
    "\u202egnp.exe\x00\x1b[31m",
    "<!-- comment --><![CDATA[ x ]]>&amp;&#60;",
    "Ünïcode \N{SNOWMAN} 書籍",
)
PIXEL = "data:image/png;base64," + base64.b64encode(b"\x89PNG" + bytes(60)).decode()
VOID = {"meta", "img", "br", "hr", "col"}


class Page(HTMLParser):
    """Every tag with its attributes, the text, and a check that tags nest."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.comments: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def named(self, tag: str) -> Iterator[dict[str, str]]:
        return (attributes for name, attributes in self.tags if name == tag)


def scores(base: float) -> dict[str, r.Score]:
    names = [f"{metric}@{k}" for metric in r.METRICS for k in r.CUTOFFS]
    values = [base + k / 1000 for k in range(len(names))]
    return {
        name: r.Score(value=value, low=value - 0.002, high=value + 0.002)
        for name, value in zip(names, values, strict=True)
    }


def panel(*series: r.Series, mark: r.Mark | None = None) -> r.Panel:
    return r.Panel(title="Loss", x_label="epoch", y_label="nats", series=series, mark=mark)


def line(*y: float | None, name: str = "text", role: r.Role = "text") -> r.Series:
    return r.Series(name=name, x=tuple(float(k) for k in range(len(y))), y=y, role=role)


def full(text: str = "", picture: str | None = PIXEL) -> r.Report:
    item = r.Item(title=f"Item {text}", thumbnail=picture)
    example = r.Example(
        user_id=f"user {text}",
        history=(item, item),
        recommended=(
            r.Recommendation(item=item, proposed_by="text"),
            r.Recommendation(item=item, proposed_by="both", hit=True),
        ),
        target=item,
    )
    return r.Report(
        title=f"Catalogue {text}",
        subtitle=f"Subtitle {text}",
        facts=(r.Fact(label=f"Items {text}", value=18618, note=f"note {text}"),),
        systems=(
            r.System(name=f"Most popular {text}", role="baseline", scores=scores(0.0312)),
            r.System(name="Text only", role="text", scores=scores(0.0561)),
            r.System(name="Image only", role="image", scores=scores(0.0447)),
            r.System(name="Fused", role="fused", scores=scores(0.0648)),
        ),
        users=2371,
        quantizer_panels=(panel(line(3.0, 2.0, 1.0), mark=r.Mark(x=1, label=f"kept {text}")),),
        generator_panels=(panel(line(0.5, 0.4, name=f"loss {text}"), line(0.1, 0.2)),),
        codebooks=(
            r.CodebookLevel(modality="text", level=0, counts=(4, 4, 0, 0)),
            r.CodebookLevel(modality="image", level=0, counts=(5, 1, 1, 1)),
        ),
        collisions=(
            r.Collisions(
                modality="text",
                rate_before=0.0384,
                rate_after=0.0,
                moved=14,
                group_sizes={2: 11, 3: 2},
            ),
        ),
        fusion_panel=panel(line(0.3, 0.5, 0.4, role="fused")),
        examples=(example,),
        parameters={f"train.epochs{text}": f"40 {text}", "seed": "7"},
        artifacts=(r.ArtifactDigest(name=f"items {text}", digest=f"sha256:ab {text}", rows=704),),
        stage_seconds={f"train {text}": 1324.0},
        notes=(f"A note {text}",),
    )


@pytest.mark.case(38)
def test_page_is_whole_and_inert() -> None:
    page = Page(r.render_html(full()))
    assert page.open == []
    names = {name for name, _ in page.tags}
    assert not names & {"script", "iframe", "object", "embed", "link", "base", "form", "a"}
    policies = [m["content"] for m in page.named("meta") if "http-equiv" in m]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


@pytest.mark.case(38)
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_as_text(text: str) -> None:
    plain, page = Page(r.render_html(full("SAFE"))), Page(r.render_html(full(text)))
    # same skeleton: nothing in the text opened a tag or an attribute
    assert [(n, sorted(a)) for n, a in page.tags] == [(n, sorted(a)) for n, a in plain.tags]
    assert page.open == [] and page.comments == []
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in ("href", "srcdoc")
            assert name != "src" or value.startswith("data:image/png;base64,")
    assert f"Item {clean(text)}" in page.text
    assert "\u202e" not in page.text and "\x00" not in page.text


@pytest.mark.case(38)
def test_nothing_is_fetched() -> None:
    page = r.render_html(full())
    assert "url(" not in page and "@import" not in page and "//" not in page.replace(PIXEL, "")


@pytest.mark.case(38)
@pytest.mark.parametrize(
    "picture",
    ["https://evil.example/x.png", "data:image/svg+xml;base64,PHN2Zz4=", "javascript:alert(1)",
     "data:text/html;base64,PGI+", "data:image/png;base64,AA\" onload=x", None],
)  # fmt: skip
def test_only_embedded_bitmaps_are_shown(picture: str | None) -> None:
    assert data_image(picture) is None
    page = Page(r.render_html(full(picture=picture)))
    assert list(page.named("img")) == []
    assert "No pictures to show." in page.text


def test_every_figure_is_on_the_page() -> None:
    report = full()
    page = Page(r.render_html(report)).text
    for system in report.systems:
        for score in system.scores.values():
            assert f"{score.value:.4f}" in page
    for words in ("18,618", "2,371", "3.84 %", "22 min 04 s", "sha256:ab", "seed", "2 of 4",
                  "50.0 %", "hit at rank 2", "kept", "chosen"):  # fmt: skip
        assert words in page.replace("\N{NO-BREAK SPACE}", " "), words
    markdown = r.render_markdown(report).replace("\N{NO-BREAK SPACE}", " ")
    for words in ("0.0648", "0.0312", "18,618", "3.84 %", "22 min 04 s", "sha256:ab", "2 of 4"):
        assert words in markdown, words


def test_headline_compares_fused_with_the_best_single_and_most_popular() -> None:
    at_10 = {"HR@10": 2, "NDCG@10": 6}
    page = Page(r.render_html(full())).text.replace("\N{NO-BREAK SPACE}", " ")
    for k in at_10.values():
        fused, text, popular = (base + k / 1000 for base in (0.0648, 0.0561, 0.0312))
        assert f"+{100 * (fused / text - 1):.1f} % over text only" in page
        assert f"+{100 * (fused / popular - 1):.1f} % over most popular" in page


def test_best_of_each_column_is_marked_once() -> None:
    page = Page(r.render_html(full()))
    bold = [a for a in page.named("td") if "best" in a.get("class", "").split()]
    assert len(bold) == 12
    scopes = [a["scope"] for a in page.named("th") if "scope" in a]
    assert len(scopes) == len(list(page.named("th"))) and {"row", "col", "colgroup"} == set(scopes)


@pytest.mark.parametrize("missing", [nan, inf, -inf, None])
def test_missing_numbers_are_dashes(missing: float | None) -> None:
    broken = r.Score(value=missing, low=missing, high=missing)
    report = replace(
        full(),
        facts=(r.Fact(label="Rate", value=missing),),
        systems=(r.System(name="Fused", role="fused", scores={"HR@10": broken}),),
        users=None,
        quantizer_panels=(panel(line(missing, missing)), panel(line(1.0, missing, 3.0, 2.0))),
        collisions=(
            r.Collisions(
                modality="image", rate_before=missing, rate_after=missing, moved=None,
                group_sizes={},
            ),
        ),
        stage_seconds={"train": missing if missing is not None else nan},
    )  # fmt: skip
    for shown in (Page(r.render_html(report)).text, r.render_markdown(report)):
        assert numbers.DASH in shown
        assert not re.search(r"\b(nan|inf|None)\b", shown, re.IGNORECASE)
    assert not re.search(r'="[^"]*\b(nan|inf)\b', r.render_html(report), re.IGNORECASE)


def test_empty_report_says_so() -> None:
    page = Page(r.render_html(r.Report(title="")))
    assert page.open == [] and "No system was evaluated." in page.text
    assert "No system was evaluated." in r.render_markdown(r.Report(title=""))


@pytest.mark.parametrize(("absent", "present"), [("image", "text"), ("text", "image")])
def test_catalogue_of_one_modality(absent: str, present: str) -> None:
    report = full(picture=None)
    ahead = r.System(name="Most popular", role="baseline", scores=scores(0.9))
    alone = next(s for s in report.systems if s.role == present)
    codebooks = tuple(c for c in report.codebooks if c.modality == present)
    report = replace(report, codebooks=codebooks, systems=(ahead, alone), collisions=())
    for shown in (Page(r.render_html(report)).text, r.render_markdown(report)):
        assert f"No {absent} codes in this run." in shown and f"No {present} codes" not in shown
        assert f"HR@10, {present} only" in shown  # without a fused system the modality's leads


def test_size_limit_holds_with_500_thumbnails() -> None:
    big = "data:image/jpeg;base64," + "A" * 40_000
    items = tuple(r.Item(title=f"item {k}", thumbnail=big) for k in range(20))
    example = r.Example(
        user_id="u",
        history=items,
        recommended=tuple(r.Recommendation(item=i, proposed_by="image") for i in items),
    )
    page = r.render_html(replace(full(), examples=(example,) * 25))
    shown = list(Page(page).named("img"))
    assert len(page.encode()) < 2_000_000
    assert len(shown) == 34  # as many as 1,400,000 bytes hold
    assert "314 pictures left out" in page  # 12 users of 9 + 20 pictures, less those shown


def test_size_limit_holds_when_everything_is_large() -> None:
    words = '"<&' * 4000
    values = tuple(float(k % 977) for k in range(5000))
    series = r.Series(name=words, x=tuple(map(float, range(5000))), y=values)
    item = r.Item(title=words, thumbnail=PIXEL)
    base = full(words)
    example = replace(
        base.examples[0],
        history=(item,) * 50,
        recommended=(r.Recommendation(item=item, proposed_by="text"),) * 50,
    )
    level = r.CodebookLevel(modality="text", level=0, counts=tuple(range(4096)))
    page = r.render_html(
        replace(
            base,
            examples=(example,) * 50,
            quantizer_panels=(panel(*(series,) * 12),) * 40,
            generator_panels=(panel(*(series,) * 12),) * 40,
            codebooks=tuple(replace(level, level=k) for k in range(40)),
            parameters={f"{k}{words}": words for k in range(1000)},
            artifacts=base.artifacts * 500,
            systems=base.systems * 30,
            notes=(words,) * 100,
        )
    )
    assert len(page.encode()) < 2_000_000
    assert Page(page).open == []


def coordinates(drawing: str) -> tuple[float, float, list[tuple[float, float]]]:
    """Width, height and every point of a chart, whatever element it is in."""
    parsed = Page(drawing)
    box = next(parsed.named("svg"))["viewbox"].split()
    points: list[tuple[float, float]] = []
    for name, a in parsed.tags:
        if name == "path":
            found = [float(n) for n in re.findall(r"[-+0-9.einfa]+", re.sub("[MLZ]", " ", a["d"]))]
            points += zip(found[::2], found[1::2], strict=True)
        if name in ("line", "circle", "rect", "text"):
            for x, y in (("x", "y"), ("x1", "y1"), ("x2", "y2"), ("cx", "cy")):
                if x in a:
                    points.append((float(a[x]), float(a[y])))
        if name == "rect":
            points.append((float(a["x"]) + float(a["width"]), float(a["y"]) + float(a["height"])))
    return float(box[2]), float(box[3]), points


SERIES = {
    "falling": (3.0, 2.0, 1.0),
    "constant": (0.25,) * 9,
    "zero": (0.0,) * 3,
    "one point": (0.7,),
    "none": (),
    "gaps": (nan, 1.0, None, 4.0, inf, 2.0, 2.5),
    "tiny": (1e-7, 2e-7, 3e-7),
    "large": (1e9, 3e9, 2e9),
    "overflow": (1e308, -1e308, 5.0, 6.0),
    "negative": (-5.0, -4.0, -1.0),
    "nearly constant": (1.0, 1.0 + 1e-15),
    "long": tuple(float((k * 7919) % 1000) for k in range(20_000)),
}


@pytest.mark.parametrize("name", SERIES)
def test_line_chart_stays_in_its_frame(name: str) -> None:
    drawing = line_chart(panel(line(*SERIES[name]), mark=r.Mark(x=1, label="kept")))
    width, height, points = coordinates(drawing)
    assert points
    for x, y in points:
        assert isfinite(x) and isfinite(y) and 0 <= x <= width and 0 <= y <= height, (x, y)
    assert len(drawing) < 20_000


def test_line_chart_puts_values_where_the_axis_says() -> None:
    drawing = line_chart(panel(line(0.0, 10.0, 5.0)))
    path = next(a["d"] for a in Page(drawing).named("path"))
    (x0, y0), (x1, y1), (x2, y2) = (
        tuple(map(float, pair.split())) for pair in path.strip("M").split(" L")
    )
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y1 < y2 < y0 and (y0 + y1) / 2 == pytest.approx(y2, abs=0.2)
    assert not list(Page(drawing).named("circle"))


def test_line_chart_breaks_at_gaps_and_dots_lone_points() -> None:
    drawing = Page(line_chart(panel(line(1.0, None, 2.0, 3.0, nan, 4.0, 5.0))))
    assert len(list(drawing.named("path"))) == 2 and len(list(drawing.named("circle"))) == 1
    assert len(list(Page(line_chart(panel(line(0.7)))).named("circle"))) == 1
    assert "No values were recorded." in line_chart(panel(line(nan, None)))


def test_thinning_keeps_the_extremes() -> None:
    values = [1.0] * 5000
    values[1234], values[4321] = 90.0, -40.0
    drawing = line_chart(panel(line(*values)))
    path = next(a["d"] for a in Page(drawing).named("path"))
    heights = [float(pair.split()[1]) for pair in path.strip("M").split(" L")]
    assert len(heights) <= MAX_POINTS + 1
    assert heights.count(min(heights)) == 1 and heights.count(max(heights)) == 1
    assert min(heights) < heights[0] < max(heights)


def test_end_labels_do_not_overlap_or_leave() -> None:
    series = [line(1.0, 1.0 + k / 1000, name=f"series {k}") for k in range(6)]
    drawing = Page(line_chart(panel(*series)))
    labels = [a for a in drawing.named("text") if "label" in a["class"].split()]
    heights = sorted(float(a["y"]) for a in labels)
    assert len(labels) == 6
    assert all(b - a >= 12.9 for a, b in pairwise(heights))


def test_charts_are_described() -> None:
    page = Page(r.render_html(full()))
    drawings = list(page.named("svg"))
    assert len(drawings) >= 8
    assert all(a["role"] == "img" and a["aria-label"] for a in drawings)
    titles = sum(name == "title" for name, _ in page.tags) - 1  # less the page's own
    assert titles == len(drawings) == sum(name == "desc" for name, _ in page.tags)


@pytest.mark.parametrize("value", [0.0, 0.0648, 1.0, nan, None])
def test_score_dots_stay_in_their_frame(value: float | None) -> None:
    system = r.System(name="x" * 80, role="fused", scores={"HR@10": r.Score(value=value)})
    width, height, points = coordinates(charts.score_dots([system] * 3, "HR@10"))
    assert all(0 <= x <= width and 0 <= y <= height for x, y in points)


@pytest.mark.parametrize(
    "counts", [(1,), (0, 0), (), (5, 0, 1), tuple(range(4096)), (10**9, 1)], ids=str
)
def test_usage_curve_stays_in_its_frame(counts: tuple[int, ...]) -> None:
    level = r.CodebookLevel(modality="text", level=0, counts=counts)
    width, height, points = coordinates(charts.usage_curve(level, max(counts, default=0)))
    assert all(0 <= x <= width + 0.1 and 0 <= y <= height for x, y in points)
    assert len(points) < 1000


def test_bars_and_columns_stay_in_their_frame() -> None:
    drawings = (
        charts.bars({"a": 0.0, "b": 1324.0, "c": nan}, "Seconds"),
        charts.columns({"2": 0, "3": 1_204_331, "50+": 1}, "Groups", "items", "image"),
        charts.columns({}, "Groups", "items", "image"),
    )
    for drawing in drawings:
        width, height, points = coordinates(drawing)
        assert all(0 <= x <= width and 0 <= y <= height for x, y in points)


def test_codebook_figures() -> None:
    even = r.CodebookLevel(modality="text", level=0, counts=(3, 3, 3, 3))
    half = replace(even, counts=(8, 8, 0, 0))
    none = replace(even, counts=(0, 0))
    assert (even.utilisation, even.perplexity, even.largest_share) == (1.0, pytest.approx(4), 0.25)
    assert (half.utilisation, half.perplexity, half.largest_share) == (0.5, pytest.approx(2), 0.5)
    assert (none.utilisation, none.perplexity, none.largest_share) == (0.0, None, None)


def test_group_bins_count_every_group() -> None:
    sizes = {2: 31, 3: 9, 7: 2, 12: 1, 44: 1, 900: 2}
    bins = group_bins(sizes)
    assert sum(bins.values()) == sum(sizes.values())
    assert bins["6–9"] == 2 and bins["50+"] == 2 and bins["4"] == 0
    assert list(group_bins({2: 1})) == ["2"] and group_bins({}) == {}


def test_axis_ticks_are_round_and_cover_the_data() -> None:
    shown = axis([0.0312, 0.0648], 0, 100, zero=True)
    assert [round(t, 6) for t in shown.ticks] == [0, 0.02, 0.04, 0.06, 0.08]
    assert shown.at(0.04) == pytest.approx(50)
    assert [numbers.tick(t, shown.step) for t in shown.ticks][:2] == ["0", "0.02"]
    assert axis([25, 40], 0, 1, whole=True, tight=True).ticks == (25, 30, 35, 40)
    assert spread([5.0, 5.0, 5.0], 2.0, 0.0, 6.0) == [2.0, 4.0, 6.0]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.metric(0.05123), "0.0512"),
        (numbers.metric(-0.00001), "0.0000"),
        (numbers.count(18618), "18,618"),
        (numbers.change(0.06, 0.05), "+20.0\u00a0%"),
        (numbers.change(0.04, 0.05), "\u221220.0\u00a0%"),
        (numbers.change(0.04, 0.0), "\u2013"),
        (numbers.duration(0.4), "0.4 s"),
        (numbers.duration(59.6), "1 min 00 s"),
        (numbers.duration(7440), "2 h 04 min"),
        (numbers.tick(2.5, 2.5), "2.5"),
        (numbers.tick(0.25, 0.05), "0.25"),
        (numbers.tick(20000, 10000), "20k"),
        (numbers.short(1_204_331), "1.2M"),
    ],
)
def test_numbers(shown: str, expected: str) -> None:
    assert shown == expected


@pytest.mark.case(38)
@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_holds_no_markup_from_outside(text: str) -> None:
    plain, page = r.render_markdown(full("SAFE")), r.render_markdown(full(text))
    assert page.count("\n") == plain.count("\n")
    bare = re.sub(r"\\.", "", page)  # what is left is active
    assert "<" not in bare and ">" not in bare and "`" not in bare and "](" not in bare
    bars = [line.count("|") for line in bare.splitlines()]
    assert bars == [line.count("|") for line in re.sub(r"\\.", "", plain).splitlines()]
    assert "://" not in bare


@pytest.mark.case(38)
@pytest.mark.parametrize("text", ["- item", "1. item", "2) item", "---", "===", "# head", "+ a"])
def test_markdown_text_cannot_open_a_block(text: str) -> None:
    assert not re.match(r"(-|\+|=|#|\d+[.)])", escape(text))


def test_elements_escape_text_and_refuse_what_could_act() -> None:
    assert el("p", "a < b", Raw("<b>x</b>"), title='"') == (
        '<p title="&quot;">a &lt; b<b>x</b></p>'
    )
    for tag, attributes in (("script", {}), ("p", {"onclick": "x"}), ("p", {"href": "x"}),
                            ("img", {"src": "https://evil.example"})):  # fmt: skip
        with pytest.raises(AssertionError):
            el(tag, **attributes)


def test_text_colours_have_contrast() -> None:
    def luminance(colour: str) -> float:
        full_form = colour if len(colour) == 6 else "".join(c * 2 for c in colour)
        parts = [int(full_form[k : k + 2], 16) / 255 for k in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    themes = [dict(re.findall(r"--(\w+):#(\w+)", t)) for t in re.findall(r":root\{([^}]*)\}", CSS)]
    assert len(themes) == 3
    for theme in themes:
        inks = theme.keys() - {"paper", "raised", "rule", "grid", "goodbg"}
        on_raised = [("good", "goodbg"), ("ink", "raised"), ("soft", "raised")]
        for ink, paper in [*((ink, "paper") for ink in sorted(inks)), *on_raised]:
            high, low = sorted((luminance(theme[ink]), luminance(theme[paper])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, paper, theme[ink])


def test_same_report_same_bytes() -> None:
    assert r.render_html(full()) == r.render_html(full())
    assert r.render_markdown(full()) == r.render_markdown(full())
