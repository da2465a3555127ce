"""Learning curves of several trainings in one picture."""

import xml.etree.ElementTree as ET

from benchmarks.pages.curve_chart import curves

SVG = "{http://www.w3.org/2000/svg}"


def rows(*values):
    return [
        {"seconds": 60.0 * (k + 1), "validation_ndcg_at_10": value}
        for k, value in enumerate(values)
    ]


def test_a_better_validation_is_higher_and_a_missing_one_a_gap():
    told = {"long": rows(0.08, 0.09, None, 0.10, 0.11), "short": rows(0.085)}
    picture = ET.fromstring(curves(told, "two trainings"))
    lines = [p.attrib["d"][1:].split(" L") for p in picture.iter(f"{SVG}path")]
    points = [[tuple(map(float, point.split())) for point in line] for line in lines]
    assert [len(line) for line in points] == [2, 2]
    x, y = zip(*points[0], *points[1], strict=True)
    assert list(x) == sorted(x) and list(y) == sorted(y, reverse=True)
    (dot,) = picture.iter(f"{SVG}circle")
    assert float(dot.attrib["cx"]) == x[0] and y[1] < float(dot.attrib["cy"]) < y[0]
    names = {t.text for t in picture.iter(f"{SVG}text")}
    assert names >= {"long", "short", "minutes of training"}
