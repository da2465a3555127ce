"""Writes the sentences below the report's headline, which explain the table."""

import numpy as np

from components.evaluate.spec import Settings
from components.evaluate.systems import BOOTSTRAP_STREAM, AllScores, WeightChoice
from macrec.generator.tokens import MODALITIES, Modality
from macrec.metrics.ranking_metrics import bootstrap


def sides(modalities: tuple[Modality, ...]) -> str:
    """Return in words what the recommendations are based on."""
    if len(modalities) > 1:
        return "text and pictures"
    return "text alone" if modalities == ("text",) else "pictures alone"


def notes(
    config: Settings,
    choice: WeightChoice,
    evaluated: AllScores,
    drop_seen: bool,
    modalities: tuple[Modality, ...],
) -> tuple[str, ...]:
    """Return the notes that explain the table: paired differences, weights, rules."""
    probability = "the legal codes" if config.renormalise else "the whole vocabulary"
    if len(modalities) > 1:
        scoring = (_fusion_gain(config, evaluated), *_fusion(choice, probability))
        if config.reciprocal_fusion:
            k = config.reciprocal_constant
            scoring += (
                f"Fused, reciprocal rank: 1 / ({k} + rank by text) + 1 / ({k} + rank by image), "
                "ranks among the same candidates.",
            )
    else:
        absent = next(m for m in MODALITIES if m not in modalities)
        scoring = (
            f"No item has {absent} codes, so the ranking is by {sides(modalities)}: the "
            f"log-probability of an item's codes, each softmax over {probability}.",
        )
    if "hybrid" in evaluated.systems:
        scoring += (_neighbours(choice, evaluated.generated),)
    if "neighbours" in evaluated.systems:
        scoring += (_hybrid_gain(config, evaluated),)
    if config.precision != "float32":
        scoring += (f"Matrix products of the generator are {config.precision}.",)
    seen = "leave out what is in the user's history" if drop_seen else "may hold seen items"
    return (
        *scoring,
        f"The lists of all systems {seen} (seen_items={config.seen_items}).",
        "Tied scores count at their expected value under random order. Most popular counts "
        "training interactions only.",
        "Half of the examples are users with a hit among the first ten, where there are enough.",
    )


def _fusion_gain(config: Settings, evaluated: AllScores) -> str:
    """Compare the fused list with the best single modality."""
    singles = [name for name in evaluated.systems if name.startswith(("text", "image"))]
    best = _best(singles, evaluated)
    description = f"Fused minus the best single modality ({best.replace('_', ', ')})"
    return _gain(description, "fused", best, config, evaluated)


def _hybrid_gain(config: Settings, evaluated: AllScores) -> str:
    """Compare the hybrid list with the better of its two parts."""
    best = _best(["neighbours", evaluated.generated], evaluated)
    return _gain(f"Hybrid minus the better of the two ({best})", "hybrid", best, config, evaluated)


def _best(names: list[str], evaluated: AllScores) -> str:
    return max(names, key=lambda name: float(evaluated.systems[name].values["ndcg_10"].mean()))


def _gain(description: str, name: str, other: str, config: Settings, evaluated: AllScores) -> str:
    """Describe the per-user difference between two systems."""
    ndcg = [evaluated.systems[system].values["ndcg_10"] for system in (name, other)]
    generator = np.random.default_rng([config.seed, BOOTSTRAP_STREAM])
    gain = bootstrap({"gain": ndcg[0] - ndcg[1]}, generator)["gain"]
    return (
        f"{description}, NDCG@10 per user: "
        f"{gain.mean:+.4f}, 95 % interval {gain.low:+.4f} to {gain.high:+.4f}."
    )


def _neighbours(choice: WeightChoice, generated: str) -> str:
    """Describe how the neighbours contribute."""
    weight, how = choice.weights.neighbours, _chosen(choice.tried_neighbours, choice.users)
    kinds = ""
    if choice.mix.successor_share:
        kinds = f"Successors have {choice.mix.successor_share:g} of the co-occurrence score. "
    if choice.mix.similar_item_share:
        share = choice.mix.similar_item_share
        kinds += f"Items with similar latents have {share:g} of the neighbour score. "
    return (
        f"Hybrid: {1 - weight:g} x probability by the {generated} score among a user's candidates "
        f"+ {weight:g} x share of the item neighbours, {how}. "
        "Co-occurrence is counted in the training parts of histories, by a cosine of asymmetry "
        f"{choice.mix.asymmetry:g}. {kinds}"
        "The neighbours of a user's items are candidates too."
    )


def _chosen(tried: dict[float, float], users: int) -> str:
    return f"chosen on {users:,} validation users" if tried else "not chosen on data"


def _fusion(choice: WeightChoice, probability: str) -> tuple[str, ...]:
    """Describe how the two scores are combined."""
    weight, how = choice.weights.text, _chosen(choice.tried_text, choice.users)
    return (
        f"Fused score: {weight:g} x log-probability by text + {1 - weight:g} x that "
        f"by image, {how}. Each softmax is over {probability}.",
        "Every candidate of either search is scored under both modalities; one without picture "
        "keeps its share of the text probability.",
    )
