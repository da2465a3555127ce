"""The commands of docs/prepare_data.md on tiny files in the layout of each public data set."""

import gzip
import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from tests.pipelines.conftest import ROOT

PAGE = (ROOT / "docs" / "prepare_data.md").read_text()
ASINS = [f"B0{k:08d}" for k in range(6)]


def amazon(folder: Path) -> None:
    items = [
        {
            "main_category": "All Beauty",
            "title": f"Soap &amp; Brush {k}",
            "average_rating": 4.8,
            "features": ["soft", "small"],
            "description": ["For hands.", "And hair."],
            "price": None,
            "images": [{"thumb": "https://x/t.jpg", "large": "https://x/l.jpg", "variant": "MAIN"}],
            "details": {"Brand": "X"},
            "parent_asin": asin,
        }
        for k, asin in enumerate(ASINS)
    ]
    reviews = [
        {
            "rating": 5.0 if k % 6 else 2.0,
            "title": "Nice",
            "text": "Nice",
            "images": [],
            "asin": asin,
            "parent_asin": asin,
            "user_id": f"AG{user}",
            "timestamp": 1_588_687_728_923 + 1_000 * k,
            "helpful_vote": 0,
            "verified_purchase": True,
        }
        for user in range(6)
        for k, asin in enumerate(ASINS)
    ]
    for name, rows in (("meta_All_Beauty", items), ("All_Beauty", reviews)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode()))


def movielens(folder: Path) -> None:
    titles = [
        '"Great" Escape, The (1963)',
        "Misérables, Les (1995)",
        *(f"Film {k}" for k in range(4)),
    ]
    movies = [f"{k + 1}::{title}::Drama|War\n" for k, title in enumerate(titles)]
    (folder / "movies.dat").write_bytes("".join(movies).encode("latin-1"))
    ratings = [
        f"{user}::{k + 1}::{5 if k else 1}::{978300760 + k}\n"
        for user in range(6)
        for k in range(6)
    ]
    (folder / "ratings.dat").write_text("".join(ratings))


def mind(folder: Path) -> None:
    entities = '[{"Label": "Prince Philip", "Type": "P"}]'
    news = [
        f"N{k}\tnews\tnewsus\t{quote}Wheel{quote} {k}\tAbstract, {k}\thttps://x/{k}\t{entities}\t[]\n"
        for k, quote in enumerate(['"', "", '"', "", "", ""])
    ]
    (folder / "news.tsv").write_text("".join(news))
    rows = [
        f"{user * 6 + k}\tU{user}\t11/{10 + k}/2019 9:05:5{k} PM\tN1 N2\tN{k}-1 N{(k + 1) % 6}-0\n"
        for user in range(6)
        for k in range(6)
    ]
    (folder / "behaviors.tsv").write_text("".join(rows))


def h_and_m(folder: Path) -> None:
    articles = [f"0108775{k:03d},Strap top {k},Jersey top with straps\n" for k in range(6)]
    header = "article_id,prod_name,detail_desc\n"
    (folder / "articles.csv").write_text(header + "".join(articles))
    sales = [
        f"2018-09-{20 + k},000{user},0108775{k:03d},0.05,2\n" for user in range(6) for k in range(6)
    ]
    header = "t_dat,customer_id,article_id,price,sales_channel_id\n"
    (folder / "transactions_train.csv").write_text(header + "".join(sales))
    (folder / "images/010").mkdir(parents=True)
    for k in range(6):
        Image.new("RGB", (8, 8)).save(folder / f"images/010/0108775{k:03d}.jpg")


@pytest.mark.parametrize(
    ("heading", "make", "interactions", "warnings"),
    [
        ("Amazon Reviews 2023", amazon, 30, ["cells contain HTML"]),
        ("MovieLens", movielens, 30, []),
        ("MIND", mind, 36, []),
        ("H&M", h_and_m, 36, []),
    ],
)
def test_the_command_of_the_page_reads_the_layout(
    tmp_path, monkeypatch, here, heading, make, interactions, warnings
):
    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    (command,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    arguments = shlex.split(command.replace("\\\n", " "))
    assert arguments.pop(0) == "macrec"
    called = here(*arguments)
    assert called.code == 0, called.out + called.err
    lines = called.out.splitlines()
    assert f"interactions: {interactions}" in lines
    assert "users: 6" in lines
    found = [line for line in lines if line.startswith("warning: ") and "test case" not in line]
    for part in warnings:
        assert any(part in line for line in found)
    unexpected = [line for line in found if not any(part in line for part in warnings)]
    assert not unexpected
