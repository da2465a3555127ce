"""Draws the report's learning curves from the history.json files of quantize and train."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from components.evaluate.systems import WeightChoice
from macrec.core.artifact import Artifact
from macrec.report.contents import Mark, Panel, Role, Series

HISTORY = "history.json"
TASK_GROUPS = {"seq": "Sequence tasks", "item": "Item tasks"}
ROLES: dict[str, Role] = {"text": "text", "image": "image"}
Row = dict[str, Any]


def read_history(folder: Artifact) -> Any:
    """Return the content of history.json; None if the folder has none."""
    if not folder.has(HISTORY):
        return None
    return json.loads(folder.file(HISTORY).read_text(encoding="utf-8"))


def quantizer_panels(quantizer: Artifact) -> tuple[Panel, ...]:
    """Return one panel per loss term; text and image share the panel of the same term."""
    history = read_history(quantizer)
    rows: list[Row] = history["epochs"] if history else []
    names = [n for n in (rows[0] if rows else {}) if n not in ("epoch", "codebooks_refitted")]
    terms: dict[str, list[str]] = {}
    for name in names:
        terms.setdefault(name.removeprefix("text_").removeprefix("image_"), []).append(name)
    return tuple(
        _panel(
            term.replace("_", " ").capitalize(),
            "Loss" if "anchors" not in term else "Share",
            [_series(rows, name, lambda row, name=name: row.get(name)) for name in members],
        )
        for term, members in terms.items()
    )


def generator_panels(recommender: Artifact, main: str) -> tuple[Panel, ...]:
    """Return panels of the training losses by kind of task, and of the validation score."""
    rows: list[Row] = read_history(recommender) or []
    if not rows:
        return ()
    groups: dict[str, list[str]] = {}
    for task in list[str](rows[0]["losses"]):
        title = TASK_GROUPS.get(task.partition("_")[0], task.capitalize())
        groups.setdefault(title, []).append(task)
    panels = [
        _panel(
            title,
            "Loss",
            [_series(rows, task, lambda row, task=task: row["losses"].get(task)) for task in tasks],
        )
        for title, tasks in groups.items()
    ]
    score = "validation_ndcg_at_10"
    scored = [row for row in rows if row[score] is not None]
    if scored:
        best = max(scored, key=lambda row: row[score])
        mark = Mark(x=float(best["epoch"]), label="kept")
        series = _series(scored, main, lambda row: row[score])
        panels.append(_panel("Validation NDCG@10", "NDCG@10", [series], mark))
    return tuple(panels)


def fusion_panels(choice: WeightChoice) -> tuple[Panel, ...]:
    """Return validation NDCG@10 over the text weight, and over the neighbour weight."""
    curves = (
        ("fused", "weight of the text score", choice.tried_text, choice.weights.text),
        ("hybrid", "weight of the neighbours", choice.tried_neighbours, choice.weights.neighbours),
    )
    return tuple(
        Panel(
            title=f"Validation NDCG@10 of {choice.users:,} users, {name}",
            x_label=label,
            y_label="NDCG@10",
            series=(Series(name=name, x=tuple(tried), y=tuple(tried.values()), role="fused"),),
            mark=Mark(x=chosen, label="chosen"),
        )
        for name, label, tried, chosen in curves
        if tried
    )


def _panel(title: str, y_label: str, series: list[Series], mark: Mark | None = None) -> Panel:
    return Panel(title=title, x_label="epoch", y_label=y_label, series=tuple(series), mark=mark)


def _series(rows: Sequence[Row], name: str, value: Callable[[Row], float | None]) -> Series:
    """Return a line in the colour of the predicted modality: the last one in its name."""
    sides = [word for word in name.split("_") if word in ROLES]
    role: Role = "fused" if name in ("fused", "hybrid") else ROLES[sides[-1]] if sides else "other"
    shown = " to ".join(sides) or name
    return Series(
        name=shown.replace("_", " "),
        x=tuple(float(row["epoch"]) for row in rows),
        y=tuple(value(row) for row in rows),
        role=role,
    )
