"""A catalogue of hostile titles and ids, from the shop's file to report and recommendations."""

import http.server
import json
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from components.evaluate import spec as evaluate
from components.prepare_data import spec as prepare_data
from components.recommend import spec as recommend
from macrec.core.artifact import (
    Artifact,
    DatasetOutput,
    FolderOutput,
    HtmlOutput,
    MarkdownOutput,
    Source,
)
from macrec.core.executor import execute
from macrec.data import schema
from macrec.data.columns import codes_column, vector_column
from macrec.generator.model import ModelSize, Recommender, build_model, save_recommender
from macrec.generator.tokens import Vocabulary
from tests.artifacts import dataset

ITEMS = 30
VOCABULARY = Vocabulary(levels=2, codebook_size=6)


class Listener:
    """A web server of this machine that notes what is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        listener = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                listener.asked.append(self.path)
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Not on the terminal."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def attacks(url: str) -> list[str]:
    """Each tells the listener, or changes the page's title, if it gets to act."""
    act = "document.title='taken'"
    return [
        f"<script>{act};fetch('{url}/script')</script>",
        f'<img src={url}/img onerror="{act}">',
        f'"><svg onload="{act}"><image href="{url}/svg"/></svg>',
        f"' onmouseover='{act}' style='background:url({url}/attribute)",
        f"</title></style></table><iframe src={url}/frame></iframe>",
        f"<style>@import '{url}/import'; body{{background:url({url}/style)}}</style>",
        f"<link rel=stylesheet href={url}/link><meta http-equiv=refresh content=0;url={url}/meta>",
        f"javascript:{act}",
        f"[link](javascript:{act}) ![picture]({url}/markdown.png) <{url}/auto>",
        f"| a | b |\n# heading `code` **bold** {url}/bare www.evil.example",
        '=HYPERLINK("http://evil.example","x")',
        "+1+cmd|' /C calc'!A0",
        f"<base href={url}><object data={url}/object><embed src={url}/embed>",
        "&lt;script&gt;&#60;script&#62;<!-- --><![CDATA[ ]]>",
        f"<template><details open ontoggle={act}></template>{{{{7*7}}}}${{7*7}}",
    ]


EXOTIC = [
    "caf\u00e9",
    "cafe\u0301",
    "\u202egnp.exe",
    "\u2066isolated\u2069 and \u200fmarked",
    "👩‍👩‍👧 family 🏳️‍🌈",
    " space at both ends ",
    "tab\tline\nreturn\rend",
    "\x01\x1b[31mred\x7f\x9f",
    "mark \ufeff inside",
    "line\u2028and\u2029paragraph",
    "\ufffe\uffff no characters",
    "\U0001d11e \U0010ffff beyond",
    "ﷺ Z\u0351\u036b\u0343 شلل",
    "書籍 ひらがな 한국어",
    "NULL",
]
"""Texts that eyes, terminals and careless programs change."""


class HostileRun(NamedTuple):
    """What went in, and what the stages made of it."""

    titles: list[str]
    item_ids: list[str]
    users: list[str]
    items: Artifact
    sequences: Artifact
    recommendations: Artifact
    report: str
    summary: str


def run_hostile(path: Path, texts: list[str]) -> HostileRun:
    """Runs prepare_data, evaluate and recommend; an untrained generator stands between them."""
    assert len(texts) == ITEMS
    titles, item_ids, users = texts, texts[::-1], texts[::3]
    items = [{"item_id": i, "title": t} for i, t in zip(item_ids, titles, strict=True)]
    events = [(user, (11 * u + 7 * t) % ITEMS, t) for u, user in enumerate(users) for t in range(9)]
    log = [
        {"user_id": user, "item_id": item_ids[item], "timestamp": 1_500_000_000 + t}
        for user, item, t in events
    ]
    path.mkdir(exist_ok=True)
    for name, rows in (("items", items), ("log", log)):
        lines = (json.dumps(row) + "\n" for row in rows)
        (path / f"{name}.jsonl").write_text("".join(lines))
    outputs = prepare_data.Outputs(
        items=DatasetOutput(path / "items"), sequences=DatasetOutput(path / "sequences")
    )
    inputs = prepare_data.Inputs(
        catalog=Source(str(path / "items.jsonl")), interactions=Source(str(path / "log.jsonl"))
    )
    config = prepare_data.Settings(min_interactions=0, keep_markup=True)  # all titles as given
    execute(prepare_data.STAGE, config, inputs, outputs, prepare_data.Execution())
    made = Artifact.open(path / "items"), Artifact.open(path / "sequences")
    return HostileRun(titles, item_ids, users, *made, *_reported(path, *made))


def _reported(path: Path, items: Artifact, sequences: Artifact) -> tuple[Artifact, str, str]:
    semantic_ids, recommender = _untrained(path, items.table(["item_id"])["item_id"].to_pylist())
    index = list(range(ITEMS))
    nothing = vector_column(np.zeros((ITEMS, 2)), np.ones(ITEMS, bool))
    codes = semantic_ids.table()
    latents = dataset(
        path / "latents",
        schema.latents(2, 2),
        [index, nothing, nothing, codes["text_codes"], codes["image_codes"]],
    )
    quantizer = FolderOutput(path / "quantizer")
    quantizer.prepare()
    (quantizer.path / "history.json").write_text('{"epochs": [], "final": {}}')
    quantizer.commit({"stage": "quantize", "config": {}})
    shared = {"sequences": sequences, "semantic_ids": semantic_ids, "recommender": recommender}
    shared["latents"] = latents
    report = evaluate.Outputs(
        predictions=DatasetOutput(path / "predictions"),
        report=HtmlOutput(path / "report.html"),
        summary=MarkdownOutput(path / "summary.md"),
    )
    given = evaluate.Inputs(
        items=items, quantizer=Artifact.open(quantizer.path), images=None, **shared
    )
    config = evaluate.Settings(beams=ITEMS, single_modality_beams=12, examples=12)
    execution = evaluate.Execution(device="cpu", threads=1)
    execute(evaluate.STAGE, config, given, report, execution)
    lists = DatasetOutput(path / "recommendations")
    execute(
        recommend.STAGE,
        recommend.Settings(top_k=ITEMS, beams=ITEMS, seen_items="keep"),
        recommend.Inputs(predictions=Artifact.open(path / "predictions"), **shared),
        recommend.Outputs(recommendations=lists),
        recommend.Execution(device="cpu", threads=1),
    )
    page, summary = report.report.path.read_text(), report.summary.path.read_text()
    return Artifact.open(lists.path), page, summary


def _untrained(path: Path, item_ids: list[str]) -> tuple[Artifact, Artifact]:
    """Semantic IDs and a generator of random weights."""
    codes_NL = np.stack(np.divmod(np.arange(ITEMS), 6), 1).astype(np.int32)
    torch.manual_seed(1)
    model = build_model(VOCABULARY, ModelSize(d_model=16, d_ff=32, d_kv=8, layers=1, heads=2))
    output = FolderOutput(path / "recommender")
    output.prepare()
    made = Recommender(model.eval(), VOCABULARY, codes_NL, codes_NL[::-1].copy(), max_history=4)
    save_recommender(output.path, made)
    (output.path / "history.json").write_text("[]")
    output.commit({"stage": "train", "config": {}})
    codes = [codes_column(codes_NL), codes_column(codes_NL[::-1].copy())]
    columns = [list(range(ITEMS)), item_ids, *codes, [-1] * ITEMS, [-1] * ITEMS]
    return dataset(path / "ids", schema.SEMANTIC_IDS, columns), Artifact.open(output.path)
