"""Stage recommend: ranks the best items for all users or for a list of users, ready to serve."""

from components.recommend.choose_options import choose_options
from components.recommend.items import allowed_items, count_reachable
from components.recommend.serving import recommend
from components.recommend.shards import KeptShards
from components.recommend.spec import Execution, Inputs, Outputs, Settings
from components.recommend.users import Users
from macrec.core.errors import check
from macrec.core.progress import Progress, log
from macrec.core.stage import Job, Metrics
from macrec.data import schema
from macrec.data.sequences import read_sequences
from macrec.ranking.inference import open_ranker, open_recommender
from macrec.ranking.neighbour_mix import mixed_neighbours
from macrec.ranking.neighbours import MixedNeighbours
from macrec.ranking.ranking_options import RankingOptions


def run(job: Job[Settings, Inputs, Outputs, Execution]) -> Metrics:
    """Rank for the users shard by shard; a finished shard is not computed again.

    Raises:
        UserError: the artifacts do not belong together, a list of ids cannot be read, or none of
            its ids is known.
    """
    if job.settings.top_k == 0:
        log.info("recommend: left out, top_k is 0")
        with job.outputs.recommendations.dataset(schema.RECOMMENDATIONS):
            return {"users": 0.0, "rows": 0.0}
    options = choose_options(job.settings, job.inputs.predictions)
    check(
        job.inputs.latents.rows == job.inputs.semantic_ids.rows,
        f"recommend: semantic_ids has {job.inputs.semantic_ids.rows:,} items, latents "
        f"{job.inputs.latents.rows:,}. Give the artifacts of one run.",
    )
    item_ids = job.inputs.semantic_ids.table(["item_id"]).column(0).combine_chunks()
    users = Users(job.inputs.sequences, len(item_ids), job.inputs.users)
    items = allowed_items(item_ids, job.inputs.allowed_items)
    recommender = open_recommender(job.inputs.recommender, job.inputs.semantic_ids)
    reachable = count_reachable(recommender, items.allowed_N)

    ranker = open_ranker(
        recommender,
        options,
        device=job.execution.device,
        batch_size=job.execution.batch_size,
        threads=job.execution.threads,
        allowed_N=items.allowed_N,
        neighbours=_neighbours(options, job.inputs, len(item_ids)),
    )
    kept, rows, whole = KeptShards(job.checkpoint_uri), 0, 0
    job.outputs.recommendations.metadata |= options.metadata()
    with (
        job.outputs.recommendations.dataset(schema.RECOMMENDATIONS) as out,
        Progress("recommend", users.count, "users") as progress,
    ):
        for shard in users.shards(job.execution.shard_users):
            table = kept.find(shard.name)
            if table is None:
                table = recommend(ranker, shard, item_ids, job.settings, options.weights, progress)
                kept.keep(shard.name, table)
            else:
                progress.total -= len(shard.user_ids)
            out.write(table)
            rows += table.num_rows
            whole += int((table["rank"].to_numpy() == job.settings.top_k).sum())
    return {
        "users": float(users.count),
        "users_without_history": float(users.without_history),
        "unknown_users": float(users.unknown),
        "unknown_items": float(items.unknown),
        "items_allowed": float(reachable),
        "rows": float(rows),
        "shorter_lists": float(users.count - whole),
    }


def _neighbours(options: RankingOptions, inputs: Inputs, items: int) -> MixedNeighbours | None:
    if not options.weights.neighbours:
        return None
    histories = read_sequences(inputs.sequences, items)
    (known,) = mixed_neighbours(histories, items, inputs.latents, [options.mix]).values()
    return known
