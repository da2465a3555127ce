"""Turns the histories of some users into rows of recommendations.

Shapes: N items, U users of a shard, K positions of a list.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from components.recommend.spec import Settings
from components.recommend.users import Shard
from macrec.core.progress import Progress
from macrec.ranking.fusion import Weights, best_lists
from macrec.ranking.ranker import Ranker


def recommend(
    ranker: Ranker,
    shard: Shard,
    item_ids: pa.Array,
    config: Settings,
    weights: Weights,
    progress: Progress,
) -> pa.Table:
    """Return the recommendations of a shard: its users in order, each from rank 1."""
    beams = max(config.beams, config.top_k)  # fewer beams could not fill the lists
    found = ranker.candidates(shard.histories, beams, progress)
    lists = best_lists(found, weights, config.top_k)
    # The lists also contain items that tie with the last rank; here they are cut to top_k.
    items_UK, scores_UK = lists.items_UK[:, : config.top_k], lists.scores_UK[:, : config.top_k]
    user, place = np.nonzero(items_UK >= 0)
    columns: dict[str, Any] = {
        "user_id": shard.user_ids.take(pa.array(user)),
        "rank": pa.array(place.astype(np.int32) + 1),
        "item_id": item_ids.take(pa.array(items_UK[user, place])),
        "score": pa.array(scores_UK[user, place]),
    }
    return pa.table(columns)
