"""Determines which IDs of an earlier run stay valid when the quantizer is frozen.

N items, P items of the earlier run, L levels
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from macrec.core.artifact import Artifact
from macrec.core.errors import check
from macrec.data.columns import codes_matrix
from macrec.tokenizer.renewal import find_previous_rows


class KeptIds(NamedTuple):
    """The kept IDs of one modality."""

    kept_N: np.ndarray
    """bool: items that keep their ID."""
    codes_NL: np.ndarray
    """Their IDs; other rows have no meaning."""


def kept_ids(
    codes: Mapping[str, np.ndarray], item_ids: pa.Array, semantic_ids: Artifact, latents: Artifact
) -> dict[str, KeptIds]:
    """Return which IDs are kept: those of items whose nearest codes are the same as earlier.

    Args:
        codes: the quantizer's codes now, by modality; a modality without codes is left out.
        item_ids: the items, in the order of the codes.
        semantic_ids: IDs of the earlier run.
        latents: latents of the earlier run, with the codes that the quantizer gave.

    Raises:
        UserError: the earlier artifacts are not from one run, or are from another quantizer.
    """
    check(
        semantic_ids.rows == latents.rows,
        f"resolve_collisions: {semantic_ids.rows:,} previous semantic IDs but {latents.rows:,} "
        "previous latents. Give the artifacts of one run.",
    )
    row_N = find_previous_rows(item_ids, semantic_ids.table(["item_id"]).column(0).combine_chunks())
    kept: dict[str, KeptIds] = {}
    for modality, codes_NL in codes.items():
        if not codes_NL.shape[1]:
            continue
        before_PL = codes_matrix(latents, f"{modality}_codes")
        ids_PL = codes_matrix(semantic_ids, f"{modality}_codes")
        levels = {codes_NL.shape[1], before_PL.shape[1], ids_PL.shape[1]}
        check(
            len(levels) == 1,
            f"resolve_collisions: {modality} codes have {sorted(levels)} levels. Give the "
            "artifacts of the run whose quantizer is frozen.",
        )
        earlier_NL = before_PL[row_N]
        there_N = (row_N >= 0) & (codes_NL >= 0).all(1) & (earlier_NL >= 0).all(1)
        kept[modality] = KeptIds(there_N & (codes_NL == earlier_NL).all(1), ids_PL[row_N])
    return kept
