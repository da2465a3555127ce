"""Determines which items may be recommended. Shapes: N items, L ids of the list."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from components.recommend.id_lists import read_ids, warn_of_unknown
from macrec.core.artifact import Source
from macrec.core.errors import check
from macrec.core.progress import log
from macrec.generator.model import Recommender
from macrec.generator.tokens import has_code

pc: Any = pyarrow.compute  # its functions are created at import, so type checkers cannot see them


class AllowedItems(NamedTuple):
    """The items of the list that the catalogue contains; all items without a list."""

    allowed_N: npt.NDArray[np.bool_] | None
    unknown: int
    """Number of ids in the list that are not in the catalogue."""


def allowed_items(item_ids: pa.Array, listed: Source | None) -> AllowedItems:
    """Read the list of allowed items.

    Raises:
        UserError: it cannot be read, is empty, or contains no item of the catalogue.
    """
    if listed is None:
        return AllowedItems(None, 0)
    ids_L = read_ids(listed, "item_id")
    row_L = pc.index_in(ids_L, value_set=item_ids).fill_null(-1).to_numpy()
    unknown = warn_of_unknown(listed, ids_L, row_L >= 0, "item")
    allowed_N = np.zeros(len(item_ids), bool)
    allowed_N[row_L[row_L >= 0]] = True
    return AllowedItems(allowed_N, unknown)


def count_reachable(recommender: Recommender, allowed_N: npt.NDArray[np.bool_] | None) -> int:
    """Return how many allowed items have a code; items without one are never recommended.

    Raises:
        UserError: no allowed item has a code.
    """
    coded_N = has_code(recommender.text_codes_NL) | has_code(recommender.image_codes_NL)
    wanted_N = np.ones(len(coded_N), bool) if allowed_N is None else allowed_N
    without, wanted = int((wanted_N & ~coded_N).sum()), int(wanted_N.sum())
    problem = f"recommend: {without:,} of {wanted:,} allowed items have no code"
    check(without < wanted, f"{problem}, so none can be ranked. Allow items that the run coded.")
    if without:
        log.warning("%s and are never recommended", problem)
    return wanted - without
