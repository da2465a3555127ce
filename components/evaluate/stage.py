"""Stage evaluate: ranks the full catalogue for every test user; writes metrics and the report."""

from dataclasses import replace
from itertools import product

from components.evaluate import churn_figures, slices, systems
from components.evaluate.spec import Execution, Inputs, Outputs, Settings
from components.evaluate.summary import write_report
from components.evaluate.systems import AllScores, WeightChoice
from components.evaluate.tokenizer_figures import measure
from macrec.core.errors import check
from macrec.core.stage import Job, Metrics
from macrec.data import schema
from macrec.data.sequences import should_drop_seen
from macrec.data.split import Split, read_split
from macrec.metrics.ranking_metrics import exposure, random_hit_rate
from macrec.ranking.fusion import Weights
from macrec.ranking.inference import open_ranker, open_recommender
from macrec.ranking.neighbour_mix import Mix, mixed_neighbours
from macrec.ranking.neighbours import MixedNeighbours
from macrec.ranking.ranking_options import RankingOptions


def run(job: Job[Settings, Inputs, Outputs, Execution]) -> Metrics:
    """Choose the fusion weights on validation users, rank for every test user, and report.

    Without text codes or without image codes there is nothing to fuse.

    Raises:
        UserError: the artifacts do not belong together, or no user can be tested.
    """
    _check_one_catalogue(job.inputs)
    recommender = open_recommender(job.inputs.recommender, job.inputs.semantic_ids)
    items = job.inputs.items.rows
    split = read_split(job.inputs.sequences, items)

    changes = churn_figures.measure_churn(job.inputs)
    known: dict[Mix, MixedNeighbours] = {}
    if job.settings.neighbour_weights:
        shares = (
            job.settings.neighbour_asymmetries,
            job.settings.similar_item_shares,
            job.settings.successor_shares,
        )
        mixes = [Mix(*mix) for mix in product(*shares)]
        known = mixed_neighbours(split.training(), items, job.inputs.latents, mixes)
    options = RankingOptions(
        weights=Weights(text=0.5),
        mix=Mix(),
        renormalise=job.settings.renormalise,
        drop_seen=should_drop_seen(job.settings.seen_items, split.sequences),
        precision=job.settings.precision,
    )
    ranker = open_ranker(
        recommender,
        options,
        device=job.execution.device,
        batch_size=job.execution.batch_size,
        threads=job.execution.threads,
    )
    choice = systems.choose_weights(ranker, split, job.settings, known)
    ranker.neighbours = known.get(choice.mix)
    options = replace(options, weights=choice.weights, mix=choice.mix)
    job.outputs.predictions.metadata |= options.metadata()
    with job.outputs.predictions.dataset(schema.PREDICTIONS) as out:
        evaluated = systems.evaluate(ranker, split, choice.weights, job.settings, out.write)
    groups = slices.measure_slices(job.settings, split, evaluated, recommender)
    slices.write_slices(job.outputs.predictions.path, groups)
    assert evaluated.users == len(split.users_T), "a test user was left out"
    measured = measure(job.inputs, split, recommender.vocabulary.codebook_size)
    write_report(
        job.settings,
        job.inputs,
        job.outputs,
        ranker,
        split,
        choice,
        evaluated,
        measured,
        groups,
        changes,
    )
    found = _metrics(split, choice, evaluated, items) | measured.figures
    return found | churn_figures.figures(changes)


def _check_one_catalogue(inputs: Inputs) -> None:
    rows = {name: getattr(inputs, name).rows for name in ("items", "semantic_ids", "latents")}
    listed = ", ".join(f"{name} {count:,}" for name, count in rows.items())
    check(
        len(set(rows.values())) == 1,
        f"evaluate: the inputs have different numbers of items: {listed}. Give those of one run.",
    )


def _metrics(
    split: Split, choice: WeightChoice, evaluated: AllScores, items: int
) -> dict[str, float]:
    found = {
        "users": float(evaluated.users),
        "users_without_history": float(split.without_history),
        "random_hr_10": random_hit_rate(items, 10),
    }
    if "fused" in evaluated.systems:
        found["fusion_weight"] = choice.weights.text
    if "hybrid" in evaluated.systems:
        found["neighbour_weight"] = choice.weights.neighbours
    if tried := choice.tried_neighbours or choice.tried_text:
        found["validation_ndcg_10"] = max(tried.values())
    for name, system in evaluated.systems.items():
        found |= {f"{name}_{metric}": float(v.mean()) for metric, v in system.values.items()}
        shown = exposure(system.shown_N, evaluated.popularity_N)
        found |= {f"{name}_{figure}_10": value for figure, value in shown._asdict().items()}
    return found
