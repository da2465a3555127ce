import re
from dataclasses import replace
from math import inf, nan

import pytest

from macrec.report import contents as r
from macrec.report import numbers
from macrec.report.escaping import clean, data_image, markdown
from macrec.report.render import TEMPLATES, render_report, render_summary
from tests.small_report import PIXEL, Page, full, line, panel, scores

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


@pytest.mark.case(38)
def test_page_is_whole_and_inert() -> None:
    page = Page(render_report(full()))
    assert page.open == []
    names = {name for name, _ in page.tags}
    assert not names & {"script", "iframe", "object", "embed", "link", "base", "form", "a"}
    policies = [m["content"] for m in page.named("meta") if "http-equiv" in m]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


@pytest.mark.case(38)
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_as_text(text: str) -> None:
    plain, page = Page(render_report(full("SAFE"))), Page(render_report(full(text)))
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
    page = render_report(full())
    assert "url(" not in page and "@import" not in page and "//" not in page.replace(PIXEL, "")


@pytest.mark.case(38)
@pytest.mark.parametrize(
    "picture",
    ["https://evil.example/x.png", "data:image/svg+xml;base64,PHN2Zz4=", "javascript:alert(1)",
     "data:text/html;base64,PGI+", "data:image/png;base64,AA\" onload=x", None],
)  # fmt: skip
def test_only_embedded_bitmaps_are_shown(picture: str | None) -> None:
    assert data_image(picture) is None
    page = Page(render_report(full(picture=picture)))
    assert list(page.named("img")) == []
    assert "No pictures to show." in page.text


def test_every_figure_is_on_the_page() -> None:
    report = full()
    page = Page(render_report(report)).text
    for system in report.systems:
        for score in system.scores.values():
            assert f"{score.value:.4f}" in page
    for words in ("18,618", "2,371", "3.84 %", "22 min 04 s", "sha256:ab", "seed", "2 of 4",
                  "50.0 %", "hit at rank 2", "kept", "next item"):  # fmt: skip
        assert words in page.replace("\N{NO-BREAK SPACE}", " "), words
    markdown = render_summary(report).replace("\N{NO-BREAK SPACE}", " ")
    for words in ("0.0648", "0.0312", "18,618", "3.84 %", "22 min 04 s", "sha256:ab", "2 of 4"):
        assert words in markdown, words


def test_headline_compares_fused_with_the_best_single_and_most_popular() -> None:
    at_10 = {"HR@10": 2, "NDCG@10": 6}
    page = Page(render_report(full())).text.replace("\N{NO-BREAK SPACE}", " ")
    for k in at_10.values():
        fused, text, popular = (base + k / 1000 for base in (0.0648, 0.0561, 0.0312))
        assert f"+{100 * (fused / text - 1):.1f} % over text only" in page
        assert f"+{100 * (fused / popular - 1):.1f} % over most popular" in page


def test_best_of_each_column_is_marked_once() -> None:
    page = Page(render_report(full()))
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
    for shown in (Page(render_report(report)).text, render_summary(report)):
        assert numbers.DASH in shown
        assert not re.search(r"\b(nan|inf|None)\b", shown, re.IGNORECASE)
    assert not re.search(r'="[^"]*\b(nan|inf)\b', render_report(report), re.IGNORECASE)


def test_empty_report_says_so() -> None:
    page = Page(render_report(r.Report(title="")))
    assert page.open == [] and "No system was evaluated." in page.text
    assert "No system was evaluated." in render_summary(r.Report(title=""))


@pytest.mark.parametrize(("absent", "present"), [("image", "text"), ("text", "image")])
def test_catalogue_of_one_modality(absent: str, present: str) -> None:
    report = full(picture=None)
    ahead = r.System(name="Most popular", role="baseline", scores=scores(0.9))
    alone = next(s for s in report.systems if s.role == present)
    codebooks = tuple(c for c in report.codebooks if c.modality == present)
    report = replace(report, codebooks=codebooks, systems=(ahead, alone), collisions=())
    for shown in (Page(render_report(report)).text, render_summary(report)):
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
    page = render_report(replace(full(), examples=(example,) * 25))
    shown = list(Page(page).named("img"))
    assert len(page.encode()) < 2_000_000
    assert len(shown) == 34  # as many as 1,400,000 bytes hold
    assert "314 pictures are left out" in page  # 12 users of 9 + 20 pictures, less those shown


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
    page = render_report(
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
    plain, page = render_summary(full("SAFE")), render_summary(full(text))
    assert page.count("\n") == plain.count("\n")
    bare = re.sub(r"\\.", "", page)  # what is left is active
    assert "<" not in bare and ">" not in bare and "`" not in bare and "](" not in bare
    bars = [line.count("|") for line in bare.splitlines()]
    assert bars == [line.count("|") for line in re.sub(r"\\.", "", plain).splitlines()]
    assert "://" not in bare


@pytest.mark.case(38)
@pytest.mark.parametrize("text", ["- item", "1. item", "2) item", "---", "===", "# head", "+ a"])
def test_markdown_text_cannot_open_a_block(text: str) -> None:
    assert not re.match(r"(-|\+|=|#|\d+[.)])", markdown(text))


@pytest.mark.case(38)
def test_text_that_is_not_cleaned_is_escaped_all_the_same() -> None:
    """Whatever a template prints is escaped, even a text that it does not expect to be hostile."""
    bad = "<b>\u202e\nx"
    (collisions,) = full().collisions
    report = replace(full(), collisions=(replace(collisions, modality=bad),))
    page, summary = render_report(report), render_summary(report)
    assert "<b>\u202e" not in page and "<b>x" not in page and "&lt;b&gt; x" in page
    assert "| &lt;b&gt; x |" in summary


def test_text_colours_have_contrast() -> None:
    def luminance(colour: str) -> float:
        full_form = colour if len(colour) == 6 else "".join(c * 2 for c in colour)
        parts = [int(full_form[k : k + 2], 16) / 255 for k in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    css = (TEMPLATES / "style.css").read_text()
    themes = [dict(re.findall(r"--(\w+):#(\w+)", t)) for t in re.findall(r":root\{([^}]*)\}", css)]
    assert len(themes) == 3
    for theme in themes:
        inks = theme.keys() - {"paper", "raised", "rule", "grid", "goodbg"}
        on_raised = [("good", "goodbg"), ("ink", "raised"), ("soft", "raised")]
        for ink, paper in [*((ink, "paper") for ink in sorted(inks)), *on_raised]:
            high, low = sorted((luminance(theme[ink]), luminance(theme[paper])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, paper, theme[ink])


def test_same_report_same_bytes() -> None:
    assert render_report(full()) == render_report(full())
    assert render_summary(full()) == render_summary(full())
