"""Titles and ids that try to act: inert in the report and its summary, seen by a real browser."""

import html
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from macrec.report.escaping import clean
from tests.attacks.hostile_run import EXOTIC, attacks

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Elements(HTMLParser):
    """Tags, their attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.case(38)
def test_no_title_or_id_becomes_an_element_of_the_report(hostile, listener, trials):
    page = Elements(hostile.report)
    names = {name for name, _ in page.tags}
    acting = {"script", "iframe", "object", "embed", "link", "base", "form", "a", "image"}
    assert not names & {*acting, "template"}
    policies = [a["content"] for n, a in page.tags if n == "meta" and "http-equiv" in a]
    assert policies == [POLICY]
    for name, attributes in page.tags:
        for attribute, value in attributes.items():
            assert not attribute.startswith("on") and attribute not in ("href", "srcdoc"), name
            assert attribute != "src" or value.startswith("data:image/")
            assert (
                "://" not in value
                or "127.0.0.1" not in html.unescape(value)
                or (attribute in ("title", "alt", "aria-label"))
            ), (name, attribute, value)
    titles = attacks(listener.url)
    shown = [title for title in titles if clean(title) in page.text]
    assert len(shown) >= len(titles) // 2, "the examples show too few of them to prove anything"
    trials("hostile titles shown as text", len(shown))


@pytest.mark.case(33)
def test_invisible_and_reversing_characters_are_not_in_the_report(hostile):
    for page in (hostile.report, hostile.summary):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\ufeff]", page)
    text = Elements(hostile.report).text
    shown = [title for title in EXOTIC if clean(title) in text]
    assert len(shown) >= len(EXOTIC) // 2 and "👩‍👩‍👧" in text


@pytest.mark.case(33)
def test_exotic_titles_and_ids_are_kept_exactly_up_to_the_recommendations(hostile, trials):
    items = hostile.items.table().to_pylist()
    assert [row["title"] for row in items] == hostile.titles
    assert [row["item_id"] for row in items] == hostile.item_ids
    assert hostile.sequences.table()["user_id"].to_pylist() == hostile.users
    lists = hostile.recommendations.table()
    assert set(lists["user_id"].to_pylist()) == set(hostile.users)
    assert set(lists["item_id"].to_pylist()) == set(hostile.item_ids)
    trials("texts kept exactly", len(items) * 2 + len(hostile.users))


@pytest.mark.case(38)
def test_the_summary_renders_without_a_link_or_an_element_of_theirs(hostile, listener):
    """By a CommonMark renderer that lets HTML through, the worst of readers."""
    assert "HYPERLINK" in hostile.summary and "script" in hostile.summary
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(hostile.summary)
    names = {name for name, _ in Elements(rendered).tags}
    plain = {"h1", "h2", "h3", "p", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"}
    assert names <= {*plain, "strong", "em"}, names
    for line in hostile.summary.splitlines():  # a line that a sheet or shell would take as formula
        assert not re.match(r"[=+@]", line), line


def browse(path: Path, folder: Path) -> str:
    """The page's document after its scripts had time to run, as headless Chromium has it."""
    command = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--no-first-run", f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=2000"),
        *("--timeout=10000", "--dump-dom", path.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.mark.case(38)
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")
def test_a_browser_runs_and_fetches_nothing(hostile, listener, tmp_path, trials):
    raw = "".join(f"<p>{title}</p>" for title in attacks(listener.url))
    (tmp_path / "unescaped.html").write_text(f"<title>Mine</title>{raw}")
    found = browse(tmp_path / "unescaped.html", tmp_path)
    assert "<title>taken" in found and listener.asked, "the trap itself does not work"
    listener.asked.clear()
    (tmp_path / "report.html").write_text(hostile.report)
    found = browse(tmp_path / "report.html", tmp_path)
    title = re.search(r"<title>(.*?)</title>", hostile.report)
    assert title and f"<title>{title[1]}</title>" in found
    assert "HYPERLINK" in found and "taken</title>" not in found
    assert listener.asked == []
    trials("hostile titles in Chromium", len(attacks(listener.url)))
