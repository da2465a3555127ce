"""The figures of a bench: means and standard deviations over seeds, intervals and p over users."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import stdev
from typing import Any, NamedTuple

import numpy as np

from macrec.core.artifact import Json
from macrec.metrics.ranking_metrics import bootstrap
from macrec.metrics.significance import UserScores, compare
from macrec.report import numbers

JUDGED_BY = "ndcg_10"
QUALITY = ("hr_1", "hr_5", "hr_10", "ndcg_5", "ndcg_10", "mrr_10", "coverage_10")
ALPHA = 0.05
STAGES = ("quantize", "train", "evaluate")
"""Stages whose seconds the table contains."""
SEED = 0


class System(NamedTuple):
    """One system, trained with one or more seeds."""

    name: str
    title: str
    seeds: list[int | None]
    """The seed is None for a run that was not trained here."""
    scores: list[UserScores]
    figures: list[dict[str, float]]
    """Figures that the stage measured, one dict per seed."""
    settings: tuple[str, ...]
    search: Json | None
    """The search that found the settings; None without a search."""


def compare_systems(systems: Sequence[System]) -> Json:
    """Return the figures of all systems; the best one has the highest mean test NDCG@10.

    Raises:
        UserError: if the systems were not tested on the same users with the same targets.
    """
    means = {s.name: np.mean([scores.values[JUDGED_BY] for scores in s.scores]) for s in systems}
    best = max(systems, key=lambda system: means[system.name])
    return {
        "users": len(systems[0].scores[0].user_ids_U),
        "judged_by": JUDGED_BY,
        "best": best.name,
        "systems": {system.name: _system_figures(system, best) for system in systems},
    }


def _system_figures(system: System, best: System) -> Json:
    names = list(system.scores[0].values)
    by_user = {
        name: np.mean([scores.values[name] for scores in system.scores], axis=0) for name in names
    }
    intervals = bootstrap(by_user, np.random.default_rng(SEED))
    by_seed = [
        {**figures, **{name: float(scores.values[name].mean()) for name in names}}
        for scores, figures in zip(system.scores, system.figures, strict=True)
    ]
    common = [n for n in by_seed[0] if all(n in figures for figures in by_seed)]
    random = np.random.default_rng(SEED)
    differences = [] if system is best else compare(best.scores, system.scores, random)
    return {
        "title": system.title,
        "seeds": system.seeds,
        "settings": list(system.settings),
        "search": system.search,
        "by_seed": by_seed,
        "mean": {n: float(np.mean([f[n] for f in by_seed])) for n in common},
        "sd": {n: stdev(f[n] for f in by_seed) for n in common} if len(by_seed) > 1 else {},
        "interval": {name: intervals[name]._asdict() for name in names},
        "to_the_best": {d.metric: {**d.difference._asdict(), "p": d.p} for d in differences},
    }


def markdown(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the tables and of the notes below them.

    Args:
        result: content of bench.json.
    """
    systems: dict[str, Json] = result["systems"]
    yield f"{result['users']:,} test users, {result['items']:,} items, full ranking."
    yield ""
    yield "| | seeds | " + " | ".join(map(heading, QUALITY)) + " |"
    yield "|---" * (2 + len(QUALITY)) + "|"
    for system in systems.values():
        cells = [_mean_and_deviation(system, name) for name in QUALITY]
        yield f"| {system['title']} | {len(system['seeds'])} | {' | '.join(cells)} |"
    yield ""
    metric = result["judged_by"]
    yield f"| | {heading(metric)}, 95 % interval over users | difference from the best | p |"
    yield "|---|---|---|---|"
    for system in systems.values():
        yield f"| {system['title']} | {_comparison(system, metric)} |"
    yield ""
    yield "| | validation NDCG@10 | trials | parameters | training, s | users/s |"
    yield "|---|---|---|---|---|---|"
    for system in systems.values():
        yield f"| {system['title']} | {' | '.join(_costs(system))} |"
    yield ""
    yield from _stage_table(systems)
    yield from _notes(result)


def heading(metric: str) -> str:
    """Return the heading of a metric, such as NDCG@10 for ndcg_10."""
    name, _, cutoff = metric.rpartition("_")
    return f"{name if name == 'coverage' else name.upper()}@{cutoff}"


def _mean_and_deviation(system: Json, name: str) -> str:
    mean = numbers.metric(system["mean"].get(name))
    return f"{mean} ± {numbers.metric(system['sd'][name])}" if name in system["sd"] else mean


def _span(interval: Mapping[str, float]) -> str:
    return f"{numbers.metric(interval['low'])} to {numbers.metric(interval['high'])}"


def _comparison(system: Json, metric: str) -> str:
    interval = _span(system["interval"][metric])
    if not system["to_the_best"]:
        return f"{interval} | the best | "
    difference = system["to_the_best"][metric]
    mean, p = numbers.metric(difference["mean"]), difference["p"]
    return f"{interval} | {mean} ({_span(difference)}) | {p:.4f}"


def _costs(system: Json) -> Iterator[str]:
    mean, search = system["mean"], system["search"]
    yield numbers.metric(mean.get("validation_ndcg_10"))
    yield str(len(search["trials"])) if search else numbers.DASH
    yield numbers.count(mean.get("parameters"))
    yield numbers.decimal(mean.get("train_seconds"))
    yield numbers.count(mean.get("users_per_second"))


def _stage_table(systems: Mapping[str, Json]) -> Iterator[str]:
    """Yield the table of figures that only systems with semantic IDs have, if there are any."""
    with_ids = [s for s in systems.values() if "quantizer_parameters" in s["mean"]]
    if not with_ids:
        return
    yield (
        "| | quantizer parameters | quantize, s | train, s | evaluate, s | epochs | "
        "collisions before resolution, text / image |"
    )
    yield "|---|---|---|---|---|---|---|"
    for system in with_ids:
        mean = system["mean"]
        seconds = [numbers.decimal(mean.get(f"seconds_{s}")) for s in STAGES]
        shares = [mean.get(f"{m}_collisions_before") for m in ("text", "image")]
        collisions = " / ".join(numbers.DASH if s is None else f"{s:.1%}" for s in shares)
        count = numbers.count(mean["quantizer_parameters"])
        epochs = numbers.count(mean["epochs"])
        yield f"| {system['title']} | {count} | {' | '.join(seconds)} | {epochs} | {collisions} |"
    yield ""


def _notes(result: Mapping[str, Any]) -> Iterator[str]:
    systems, metric = result["systems"], result["judged_by"]
    best = systems[result["best"]]["title"]
    yield f"Best by {heading(metric)}: {best}."
    close = [
        system["title"]
        for system in systems.values()
        if system["to_the_best"] and system["to_the_best"][metric]["p"] >= ALPHA
    ]
    if close:
        yield f"Not significantly different from it (p >= {ALPHA}): {', '.join(close)}."
    for name, system in systems.items():
        if (name == "macrec" or name.startswith("run_")) and system["to_the_best"]:
            difference = system["to_the_best"][metric]
            significant = "" if difference["p"] < ALPHA else "not significantly "
            yield (
                f"{system['title']} is {significant}worse than {best}: "
                f"{numbers.metric(difference['mean'])} ({_span(difference)})."
            )
    for name, reason in result.get("left_out", {}).items():
        yield f"Left out: {name} {reason}."
    for failure in result.get("failed", ()):
        seed = "" if failure["seed"] is None else f", seed {failure['seed']}"
        yield f"Failed: {failure['system']}{seed}: {failure['reason']}"
    yield ""
    yield (
        "±: standard deviation over seeds. Intervals: bootstrap over users, scores averaged over "
        "seeds. p: two-sided randomisation test (random signs of the users' differences), not "
        "corrected for the number of systems. Training: seconds until the last epoch, with "
        "validation; for our own systems, quantize and train. users/s: scoring and ranking with a "
        "loaded model; for a run, its stage recommend with start-up. Parameters: those of the "
        "ranking model, for our own systems the generator; for a model without training, the "
        "number of stored counts."
    )
