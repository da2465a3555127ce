"""Fills the run report from the artifacts and from what the evaluation found."""

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np

from components.evaluate import curves
from components.evaluate.examples import Cards, choose_users, example_users
from components.evaluate.inputs import Split
from components.evaluate.systems import (
    BOOTSTRAP_STREAM,
    EXAMPLES_STREAM,
    Evaluated,
    WeightChoice,
)
from macrec.arrays import codes_matrix
from macrec.artifact import Artifact
from macrec.generator import MODALITIES, has_code
from macrec.metrics import bootstrap
from macrec.ranking import Ranker
from macrec.report import (
    ArtifactDigest,
    CodebookLevel,
    Collisions,
    Fact,
    Report,
    Role,
    Score,
    System,
    render_html,
    render_markdown,
)
from macrec.semantic_ids import collision_rate, group_sizes

if TYPE_CHECKING:
    from components.evaluate.main import Config, Inputs, Outputs

METRIC_NAMES: Final = {"hr": "HR", "ndcg": "NDCG", "mrr": "MRR"}


def write_report(
    config: "Config",
    inputs: "Inputs",
    outputs: "Outputs",
    ranker: Ranker,
    split: Split,
    choice: WeightChoice,
    evaluated: Evaluated,
) -> None:
    """The HTML page and the Markdown summary."""
    generator = np.random.default_rng([config.seed, EXAMPLES_STREAM])
    hits_T = evaluated.systems["fused"].values["hr_10"]
    places = choose_users(hits_T, config.examples, generator)
    cards = Cards(inputs.items, inputs.images)
    examples = example_users(ranker, split, places, choice.weight, config.beams, cards)
    cards.close()
    artifacts = _artifacts(inputs)
    report = Report(
        title="MACRec run report",
        subtitle="Generative recommendation from text and pictures",
        facts=_facts(inputs, split, choice),
        systems=_systems(config, evaluated),
        users=evaluated.users,
        quantizer_panels=curves.quantizer_panels(inputs.quantizer),
        generator_panels=curves.generator_panels(inputs.recommender),
        codebooks=_codebooks(inputs.latents, ranker.recommender.vocabulary.codebook_size),
        collisions=_collisions(inputs.latents, inputs.semantic_ids),
        fusion_panel=curves.fusion_panel(choice),
        examples=examples,
        parameters=_parameters(config, artifacts),
        artifacts=tuple(
            ArtifactDigest(name=name, digest=artifact.digest, rows=artifact.rows or None)
            for name, artifact in artifacts.items()
        ),
        notes=_notes(config, choice, evaluated),
    )
    outputs.report.write_text(render_html(report))
    outputs.summary.write_text(render_markdown(report))


def _systems(config: "Config", evaluated: Evaluated) -> tuple[System, ...]:
    wide = f"{config.single_modality_beams} beams"
    rows: dict[str, tuple[str, Role]] = {
        "popular": ("Most popular", "baseline"),
        "text": (f"Text only, {config.beams} beams", "text"),
        "text_wide": (f"Text only, {wide}", "text"),
        "image": (f"Image only, {config.beams} beams", "image"),
        "image_wide": (f"Image only, {wide}", "image"),
        "fused_published": ("Fused, published rule", "other"),
        "fused": ("Fused", "fused"),
    }
    shown: list[System] = []
    for key, (name, role) in rows.items():
        if key not in evaluated.systems:
            continue
        # one stream for all: the systems are compared on the same resampled users
        generator = np.random.default_rng([config.seed, BOOTSTRAP_STREAM])
        found = bootstrap(evaluated.systems[key].values, generator)
        scores = {
            _metric_name(metric): Score(value=mean, low=low, high=high)
            for metric, (mean, low, high) in found.items()
        }
        shown.append(System(name=name, role=role, scores=scores))
    return tuple(shown)


def _metric_name(metric: str) -> str:
    """ndcg_10 as the report writes it: NDCG@10."""
    kind, _, cutoff = metric.partition("_")
    return f"{METRIC_NAMES[kind]}@{cutoff}"


def _notes(config: "Config", choice: WeightChoice, evaluated: Evaluated) -> tuple[str, ...]:
    """What a reader of the table must know: the weight, the paired difference, the rules."""
    singles = [name for name in evaluated.systems if name.startswith(("text", "image"))]
    ndcg = {name: scores.values["ndcg_10"] for name, scores in evaluated.systems.items()}
    best = max(singles, key=lambda name: float(ndcg[name].mean()))
    generator = np.random.default_rng([config.seed, BOOTSTRAP_STREAM])
    gain = bootstrap({"gain": ndcg["fused"] - ndcg[best]}, generator)["gain"]
    how = f"chosen on {choice.users:,} validation users" if choice.tried else "not chosen on data"
    probability = "the legal codes" if config.renormalise else "the whole vocabulary"
    return (
        f"Fused minus the best single modality ({best.replace('_', ', ')}), NDCG@10 per user: "
        f"{gain.mean:+.4f}, 95 % interval {gain.low:+.4f} to {gain.high:+.4f}.",
        f"Fused score: {choice.weight:g} x log-probability by text + {1 - choice.weight:g} x that "
        f"by image, {how}. Each softmax is over {probability}.",
        "Every candidate of either search is scored under both modalities; one without picture "
        "keeps its share of the text probability.",
        "Tied scores count at their expected value under random order. Most popular counts "
        "training interactions only.",
        "Half of the examples are users with a hit among the first ten, where there are enough.",
    )


def _facts(inputs: "Inputs", split: Split, choice: WeightChoice) -> tuple[Fact, ...]:
    items, users = inputs.items.rows, len(split.user_ids)
    interactions = len(split.item_K)
    facts = [
        Fact(label="Items", value=items),
        Fact(label="Users", value=users),
        Fact(label="Interactions", value=interactions, note=f"{interactions / users:.1f} per user"),
        Fact(label="Test users", value=len(split.users_T)),
        Fact(label="Validation users", value=choice.users, note="fusion weight"),
    ]
    for modality in MODALITIES:
        coded = _coded(inputs.semantic_ids, modality)
        note = f"{100 * coded / items:.1f} % of items"
        facts.append(Fact(label=f"Items with {modality} codes", value=coded, note=note))
    return tuple(facts)


def _coded(semantic_ids: Artifact, modality: str) -> int:
    codes_NL = codes_matrix(semantic_ids, f"{modality}_codes")
    return int(has_code(codes_NL).sum()) if codes_NL.shape[1] else 0


def _codebooks(latents: Artifact, codebook_size: int) -> tuple[CodebookLevel, ...]:
    """Items per code of every level, before collisions were resolved."""
    levels: list[CodebookLevel] = []
    for modality in MODALITIES:
        codes_NL = codes_matrix(latents, f"{modality}_codes")
        for level in range(codes_NL.shape[1]):
            code_N = codes_NL[codes_NL[:, level] >= 0, level]
            counts = np.bincount(code_N, minlength=codebook_size)
            levels.append(
                CodebookLevel(modality=modality, level=level, counts=tuple(counts.tolist()))
            )
    return tuple(levels)


def _collisions(latents: Artifact, semantic_ids: Artifact) -> tuple[Collisions, ...]:
    found: list[Collisions] = []
    for modality in MODALITIES:
        before_NL = codes_matrix(latents, f"{modality}_codes")
        if not before_NL.shape[1]:
            continue
        moved_N = np.asarray(semantic_ids.table([f"{modality}_moved"]).column(0))
        sizes = enumerate(group_sizes(before_NL).tolist())
        found.append(
            Collisions(
                modality=modality,
                rate_before=collision_rate(before_NL),
                rate_after=collision_rate(codes_matrix(semantic_ids, f"{modality}_codes")),
                moved=int((moved_N >= 0).sum()),
                group_sizes={size: groups for size, groups in sizes if size > 1 and groups},
            )
        )
    return tuple(found)


def _artifacts(inputs: "Inputs") -> dict[str, Artifact]:
    values = {f.name: getattr(inputs, f.name) for f in dataclasses.fields(inputs)}
    return {name: value for name, value in values.items() if isinstance(value, Artifact)}


def _parameters(config: "Config", artifacts: dict[str, Artifact]) -> dict[str, str]:
    """The settings of every stage that made an input, and of this one."""
    settings: dict[str, str] = {}
    for artifact in artifacts.values():
        stage = artifact.manifest.get("stage")
        made_with = artifact.manifest.get("config") or {}
        settings |= {f"{stage}.{key}": str(value) for key, value in made_with.items()}
    own = dataclasses.asdict(config)
    return settings | {f"evaluate.{key}": str(value) for key, value in own.items()}
