"""Fills the run report from the artifacts and the results of the evaluation."""

import dataclasses
from typing import Final

import numpy as np

from components.evaluate import curves, notes
from components.evaluate.example_users import Cards, choose_users, example_users
from components.evaluate.slices import Slice
from components.evaluate.spec import Inputs, Outputs, Settings
from components.evaluate.systems import (
    BOOTSTRAP_STREAM,
    EXAMPLES_STREAM,
    AllScores,
    WeightChoice,
)
from components.evaluate.tokenizer_figures import CodeMeasures
from macrec.core.artifact import Artifact
from macrec.data.columns import codes_matrix
from macrec.data.embeddings import OK
from macrec.data.schema import PICTURES
from macrec.data.split import Split
from macrec.generator.tokens import MODALITIES, Modality, has_code
from macrec.metrics.ranking_metrics import Interval, bootstrap, exposure
from macrec.ranking.ranker import Ranker
from macrec.report.contents import (
    ArtifactDigest,
    CodebookLevel,
    ExposureFigures,
    Fact,
    Group,
    IdChurn,
    Report,
    Role,
    Score,
    System,
)
from macrec.report.render import render_report, render_summary
from macrec.tokenizer.churn import Churn
from macrec.tokenizer.item_vectors_from_histories import count_items_in_histories

METRIC_NAMES: Final = {"hr": "HR", "ndcg": "NDCG", "mrr": "MRR"}


def write_report(
    config: Settings,
    inputs: Inputs,
    outputs: Outputs,
    ranker: Ranker,
    split: Split,
    choice: WeightChoice,
    evaluated: AllScores,
    measured: CodeMeasures,
    slices: tuple[Slice, ...],
    churn: dict[str, Churn],
) -> None:
    """Write the HTML page and the Markdown summary."""
    generator = np.random.default_rng([config.seed, EXAMPLES_STREAM])
    hits_T = evaluated.systems[evaluated.main].values["hr_10"]
    places = choose_users(hits_T, config.examples, generator)
    cards = Cards(inputs.items, inputs.images)
    examples = example_users(ranker, split, places, choice.weights, config.beams, cards)
    cards.close()
    artifacts = _artifacts(inputs)
    names = _names(config)
    report = Report(
        title="MACRec run report",
        subtitle=f"Generative recommendation from {notes.sides(ranker.modalities)}",
        facts=_facts(inputs, split, choice, ranker.modalities),
        systems=_systems(config, evaluated, names),
        groups=tuple(_group(found, names) for found in slices),
        users=evaluated.users,
        quantizer_panels=curves.quantizer_panels(inputs.quantizer),
        generator_panels=curves.generator_panels(inputs.recommender, evaluated.generated),
        codebooks=_codebooks(inputs.semantic_ids, ranker.recommender.vocabulary.codebook_size),
        collisions=measured.collisions,
        churn=tuple(IdChurn(modality=m, **churn[m]._asdict()) for m in MODALITIES if m in churn),
        tokenizers=measured.tokenizers,
        agreement=measured.agreement,
        fusion_panels=curves.fusion_panels(choice),
        examples=examples,
        parameters=_parameters(config, artifacts),
        artifacts=tuple(
            ArtifactDigest(name=name, digest=artifact.digest, rows=artifact.rows or None)
            for name, artifact in artifacts.items()
        ),
        notes=notes.notes(config, choice, evaluated, ranker.drop_seen, ranker.modalities),
    )
    outputs.report.write_text(render_report(report))
    outputs.summary.write_text(render_summary(report))


def _names(config: Settings) -> dict[str, tuple[str, Role]]:
    """Return each system's name in the report, in the order of the table."""
    wide = f"{config.single_modality_beams} beams"
    return {
        "popular": ("Most popular", "baseline"),
        "text": (f"Text only, {config.beams} beams", "text"),
        "text_wide": (f"Text only, {wide}", "text"),
        "image": (f"Image only, {config.beams} beams", "image"),
        "image_wide": (f"Image only, {wide}", "image"),
        "fused_published": ("Fused, published rule", "other"),
        "fused_rrf": ("Fused, reciprocal rank", "other"),
        "fused": ("Fused", "fused"),
        "neighbours": ("Neighbours", "other"),
        "hybrid": ("Hybrid", "fused"),
    }


def _systems(
    config: Settings, evaluated: AllScores, names: dict[str, tuple[str, Role]]
) -> tuple[System, ...]:
    shown: list[System] = []
    for key, (name, role) in names.items():
        if key not in evaluated.systems:
            continue
        system = evaluated.systems[key]
        # one stream for all, so that the systems are compared on the same resampled users
        generator = np.random.default_rng([config.seed, BOOTSTRAP_STREAM])
        scores = _scores(bootstrap(system.values, generator))
        figures = ExposureFigures(**exposure(system.shown_N, evaluated.popularity_N)._asdict())
        shown.append(System(name=name, role=role, scores=scores, shown=figures))
    return tuple(shown)


def _group(found: Slice, names: dict[str, tuple[str, Role]]) -> Group:
    scores = {names[system][0]: _scores(metrics) for system, metrics in found.scores.items()}
    return Group(by=found.by, name=found.name, users=found.users, scores=scores)


def _scores(found: dict[str, Interval]) -> dict[str, Score]:
    return {
        _metric_name(metric): Score(value=mean, low=low, high=high)
        for metric, (mean, low, high) in found.items()
    }


def _metric_name(metric: str) -> str:
    """Return ndcg_10 as the report writes it: NDCG@10."""
    kind, _, cutoff = metric.partition("_")
    return f"{METRIC_NAMES[kind]}@{cutoff}"


def _facts(
    inputs: Inputs, split: Split, choice: WeightChoice, modalities: tuple[Modality, ...]
) -> tuple[Fact, ...]:
    items, users = inputs.items.rows, len(split.user_ids)
    interactions = len(split.sequences.items)
    facts = [
        Fact(label="Items", value=items),
        Fact(label="Users", value=users),
        Fact(label="Interactions", value=interactions, note=f"{interactions / users:.1f} per user"),
        Fact(label="Test users", value=len(split.users_T)),
    ]
    if choice.users:
        facts.append(Fact(label="Validation users", value=choice.users, note="fusion weights"))
    for modality in modalities:
        coded = _count_coded(inputs.semantic_ids, modality)
        note = f"{100 * coded / items:.1f} % of items"
        facts.append(Fact(label=f"Items with {modality} codes", value=coded, note=note))
    facts += _picture_facts(inputs.image_embeddings)
    if met := count_items_in_histories(inputs.quantizer):
        note = f"{100 * met / items:.1f} % of items; part of their codes, foretold for the others"
        facts.append(Fact(label="Items met in histories", value=met, note=note))
    return tuple(facts)


def _picture_facts(image_embeddings: Artifact | None) -> list[Fact]:
    """Return how many pictures were found, if an encoder read them."""
    counts = image_embeddings.metadata.get(PICTURES) if image_embeddings else None
    if not image_embeddings or not counts:
        return []
    named, found = counts["named"], counts["found"]
    note = f"{100 * found / max(named, 1):.1f} % of {named:,} pictures in the catalogue"
    facts = [Fact(label="Pictures found", value=found, note=note)]
    status = image_embeddings.table(["status"]).column(0).value_counts().to_pylist()
    reasons = {row["values"]: row["counts"] for row in status}
    without = {n: count for n, count in sorted(reasons.items()) if n != OK}
    if without:
        total = sum(without.values())
        note = ", ".join(f"{count:,} {reason}" for reason, count in without.items())
        facts.append(Fact(label="Items without image vector", value=total, note=note))
    return facts


def _count_coded(semantic_ids: Artifact, modality: str) -> int:
    codes_NL = codes_matrix(semantic_ids, f"{modality}_codes")
    return int(has_code(codes_NL).sum()) if codes_NL.shape[1] else 0


def _codebooks(semantic_ids: Artifact, codebook_size: int) -> tuple[CodebookLevel, ...]:
    """Return the number of items per code of every level."""
    levels: list[CodebookLevel] = []
    for modality in MODALITIES:
        codes_NL = codes_matrix(semantic_ids, f"{modality}_codes")
        for level in range(codes_NL.shape[1]):
            code_N = codes_NL[codes_NL[:, level] >= 0, level]
            counts = np.bincount(code_N, minlength=codebook_size)
            levels.append(
                CodebookLevel(modality=modality, level=level, counts=tuple(counts.tolist()))
            )
    return tuple(levels)


def _artifacts(inputs: Inputs) -> dict[str, Artifact]:
    values = {f.name: getattr(inputs, f.name) for f in dataclasses.fields(inputs)}
    return {name: value for name, value in values.items() if isinstance(value, Artifact)}


def _parameters(config: Settings, artifacts: dict[str, Artifact]) -> dict[str, str]:
    """Return the settings of every stage that made an input, and of this stage."""
    settings: dict[str, str] = {}
    for artifact in artifacts.values():
        stage = artifact.manifest.get("stage")
        made_with = artifact.manifest.get("config") or {}
        settings |= {f"{stage}.{key}": str(value) for key, value in made_with.items()}
    own = dataclasses.asdict(config)
    return settings | {f"evaluate.{key}": str(value) for key, value in own.items()}
