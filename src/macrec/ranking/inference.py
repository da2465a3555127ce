"""Open a trained recommender for ranking: check its artifacts and place the ranker on a device."""

import numpy as np
import numpy.typing as npt
import torch

from macrec.compute.device import choose_device
from macrec.core.artifact import Artifact
from macrec.core.errors import check
from macrec.data.columns import codes_matrix
from macrec.generator.model import Recommender, load_recommender
from macrec.generator.tokens import MODALITIES
from macrec.ranking.neighbours import AnyNeighbours
from macrec.ranking.ranker import Ranker
from macrec.ranking.ranking_options import RankingOptions


def open_recommender(recommender: Artifact, semantic_ids: Artifact) -> Recommender:
    """Load the recommender and check that the semantic IDs are those it was trained on.

    Raises:
        UserError: the semantic IDs are from another run, so items would be confused.
    """
    opened = load_recommender(recommender.verify().path)
    for modality in MODALITIES:
        codes_NL = codes_matrix(semantic_ids, f"{modality}_codes")
        trained_NL = opened.codes_NL(modality)
        absent = not codes_NL.size and len(codes_NL) == len(trained_NL)
        check(
            bool((trained_NL < 0).all() if absent else np.array_equal(codes_NL, trained_NL)),
            f"{semantic_ids.path}: the recommender was trained on other {modality} codes, so "
            "items would be taken for others. Give the artifacts of one run, or train it again.",
        )
    return opened


def open_ranker(
    recommender: Recommender,
    options: RankingOptions,
    *,
    device: str,
    batch_size: int,
    threads: int,
    allowed_N: npt.NDArray[np.bool_] | None = None,
    neighbours: AnyNeighbours | None = None,
) -> Ranker:
    """Return a ranker for the recommender, on its device.

    Args:
        recommender: the trained recommender.
        options: how lists are made; the weights are applied later (`macrec.ranking.fusion`).
        device: cpu, cuda or auto.
        batch_size: users decoded together; 0 means 64 on a CPU and 512 on a GPU.
        threads: CPU threads; 0 leaves the number unchanged.
        allowed_N: bool [N], the items that may be listed; None for all.
        neighbours: see `Ranker`.
    """

    if threads:
        torch.set_num_threads(threads)
    chosen = choose_device(device)
    return Ranker(
        recommender,
        device=chosen,
        batch_size=batch_size or (64 if chosen.type == "cpu" else 512),
        renormalise=options.renormalise,
        drop_seen=options.drop_seen,
        precision=options.precision,
        allowed_N=allowed_N,
        neighbours=neighbours,
    )
