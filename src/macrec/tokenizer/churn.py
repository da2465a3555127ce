"""Compare two versions of the semantic IDs: how many items keep their ID.

Shapes: N items of the later version, P items of the earlier version, L levels.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from macrec.core.artifact import Artifact
from macrec.core.errors import check
from macrec.data.columns import codes_matrix
from macrec.tokenizer.measures import has_codes
from macrec.tokenizer.renewal import find_previous_rows


class Churn(NamedTuple):
    """Item counts of one modality, by what happened to their semantic ID."""

    kept: int
    """Items with the same ID in both versions."""
    moved: int
    """Items with a different ID in the later version."""
    new: int
    """Items without an ID in the earlier version."""
    gone: int
    """Items without an ID in the later version: the item, its text or its image was removed."""

    @property
    def share(self) -> float:
        """Share of changed IDs among the items that have an ID in both versions."""
        return self.moved / max(self.kept + self.moved, 1)


def compare(earlier: Artifact, later: Artifact) -> dict[str, Churn]:
    """Compare two artifacts of semantic IDs by item id, for each modality that either contains.

    Raises:
        UserError: an artifact does not contain semantic IDs.
    """
    for artifact in (earlier, later):
        columns = [column["name"] for column in artifact.manifest["schema"] or []]
        check(
            {"item_id", "text_codes", "image_codes"} <= set(columns),
            f"{artifact.path}: not semantic IDs; its columns are {', '.join(columns)}.",
        )
    ids, earlier_ids = (
        artifact.table(["item_id"]).column(0).combine_chunks() for artifact in (later, earlier)
    )
    return dict(_by_modality(earlier, later, find_previous_rows(ids, earlier_ids)))


def _by_modality(
    earlier: Artifact, later: Artifact, row_N: np.ndarray
) -> Iterator[tuple[str, Churn]]:
    for modality in ("text", "image"):
        before_PL, after_NL = (codes_matrix(a, f"{modality}_codes") for a in (earlier, later))
        had_P, has_N = (
            has_codes(codes) if codes.shape[1] else np.zeros(len(codes), bool)
            for codes in (before_PL, after_NL)
        )
        if not (had_P.any() or has_N.any()):
            continue
        both_N = has_N & (row_N >= 0)
        both_N[both_N] = had_P[row_N[both_N]]
        kept = 0
        if before_PL.shape[1] == after_NL.shape[1]:
            kept = int((after_NL[both_N] == before_PL[row_N[both_N]]).all(1).sum())
        both = int(both_N.sum())
        new, gone = int(has_N.sum()) - both, int(had_P.sum()) - both
        yield modality, Churn(kept, both - kept, new, gone)
