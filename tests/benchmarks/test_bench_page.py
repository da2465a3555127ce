"""The comparisons of README and docs/results.md: made from what there is, drawn legibly."""

import json
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from benchmarks.pages import bench_page
from benchmarks.pages.bench_chart import LINE, Point, chart
from benchmarks.pages.bench_summary import summary

SVG = "{http://www.w3.org/2000/svg}"


def drawn(points):
    return ElementTree.fromstring(chart(points, "a < b", "seconds", "NDCG@10"))


def test_a_point_and_a_legible_name_for_each_system():
    points = [Point(f"system {k}", 10.0**k, 0.08 + k / 1e4, 0.07, 0.09, k == 2) for k in range(5)]
    picture = drawn([*points, Point("far <below>", 1e-3, 0.01, 0.0, 0.02, False)])
    circles = picture.findall(f"{SVG}circle")
    across = [float(circle.get("cx")) for circle in circles]
    assert len(circles) == 6 and across[:5] == sorted(across[:5]) and across[5] < across[0]
    steps = [after - before for before, after in pairwise(across[:5])]
    assert max(steps) - min(steps) < 0.3  # time is logarithmic
    assert [c.get("class") for c in circles].count("dot own") == 1
    texts = picture.findall(f"{SVG}text")
    names = {t.text: float(t.get("y")) for t in texts if "name" in t.get("class").split()}
    assert names.keys() >= {"far <below>", *(p.name for p in points)}
    heights = sorted(y for name, y in names.items() if name.startswith("system"))
    assert min(after - before for before, after in pairwise(heights)) >= LINE - 0.2


def test_better_is_higher():
    picture = drawn(
        [Point("a", 1.0, 0.01, 0.0, 0.02, False), Point("b", 1.0, 0.05, 0.04, 0.06, True)]
    )
    low, high = (float(circle.get("cy")) for circle in picture.findall(f"{SVG}circle"))
    assert high < low


def test_the_pages_are_those_of_the_results():
    assert bench_page.PAGE.read_text() == bench_page.page()
    assert bench_page.README.read_text() == bench_page.readme()
    for name, svg in bench_page.pictures().items():
        assert (bench_page.IMAGES / name).read_text() == svg + "\n", name
    assert bench_page.pictures() and bench_page.newest()


def test_the_newest_result_of_a_data_set_is_shown_with_its_origin(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_page, "RESULTS", tmp_path)
    newest = json.loads(max(bench_page.ROOT.glob("benchmarks/results/*-bench-*.json")).read_bytes())
    (tmp_path / "2020-01-01-bench-shop.json").write_text("{}")
    result = {name: newest[name] for name in newest if name not in ("date", "commit", "device")}
    (tmp_path / "bench.json").write_text(json.dumps(result))
    path = bench_page.add(tmp_path / "bench.json", "shop", "a machine")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-bench-shop\.json", path.name)
    assert bench_page.newest() == {"shop": path}
    page = bench_page.page()
    assert "a machine; " in page and "### shop" in page
    for system in newest["systems"].values():
        assert f"| {system['title']} |" in page
    assert page.count(bench_page.BEGIN) == page.count(bench_page.END) == 1


def test_the_summary_starts_with_the_best_and_bold_is_not_significantly_worse():
    def system(title, quality, p=None):
        to_the_best = {} if p is None else {"ndcg_10": {"p": p}}
        mean = {"hr_10": 2 * quality, "ndcg_10": quality}
        return {"title": title, "mean": mean, "to_the_best": to_the_best}

    small = {"far": system("Far", 0.1, 0.049), "best": system("Best", 0.12)}
    large = {"near": system("Near", 0.2, 0.05), "best": system("Best", 0.3)}
    lines = [*summary({"small": {"systems": small}, "large": {"systems": large}})]
    assert lines == [
        "| | small, HR@10 | small, NDCG@10 | large, HR@10 | large, NDCG@10 |",
        "|---|---|---|---|---|",
        "| Best | **0.240** | **0.120** | **0.600** | **0.300** |",
        "| Far | 0.200 | 0.100 | – | – |",
        "| Near | – | – | **0.400** | **0.200** |",
    ]


@pytest.mark.parametrize("trials", [0, 20])
def test_the_origin_names_the_search(trials):
    result = {"date": "d", "commit": "c", "device": "x", "trials": trials, "minutes": 4.0}
    text = "".join(bench_page._origin(result))
    assert ("20 trials or 4 minutes per model" in text) == bool(trials)
    assert ("no search" in text) == (not trials)


def test_the_origin_names_the_earlier_bench_that_searched():
    result = {"date": "d", "commit": "c", "device": "x", "trials": 4, "minutes": 9.0}
    earlier = {"file": "bench.json", "date": "2026-01-02", "commit": "abc"}
    text = "".join(bench_page._origin(result | {"searched": earlier}))
    assert text.endswith(
        "search: 4 trials or 9 minutes per model, from the bench of 2026-01-02, commit abc."
    )
    text = "".join(bench_page._origin(result | {"searched": {"file": "bench.json"}}))
    assert text.endswith("4 trials or 9 minutes per model, from the bench of bench.json.")
