"""Measures how many IDs of the previous version are kept in the next one.

Shape suffix: N new items.
"""

from collections.abc import Mapping

import numpy as np

from macrec.core.progress import log
from macrec.core.stage import Metrics
from macrec.tokenizer.measures import has_codes
from macrec.tokenizer.renewal import VersionUpdate


def figures(row_N: np.ndarray, before: int, renewed: Mapping[str, VersionUpdate]) -> Metrics:
    """Return counts of the catalogue, and counts per modality prefixed with its name.

    The catalogue has the counts `items`, `new` and `removed`. Each modality has:

    - `items`: items with codes.
    - `new`: items without codes before.
    - `lost`: items without codes now.
    - `changed`: items whose content calls for other codes.
    - `moved`: items that got an ID now, but not the nearest one.
    - `kept`: items that keep their ID.
    - `churn`: share of earlier IDs, of items that still exist, that are not the same.

    Args:
        row_N: row of each item in the previous version, -1 for a new one.
        before: number of items in the previous version.
    """
    still = int((row_N >= 0).sum())
    counts = {"items": len(row_N), "new": len(row_N) - still, "removed": before - still}
    log.info("%s items: %s new, %s removed", *(f"{count:,}" for count in counts.values()))
    result: Metrics = {name: float(count) for name, count in counts.items()}
    for name, after in renewed.items():
        has_N = has_codes(after.version.codes_NL)
        had, same = int(after.had_N.sum()), int(after.same_N.sum())
        own = {
            "items": int(has_N.sum()),
            "new": int((has_N & ~after.had_N).sum()),
            "lost": int((after.had_N & ~has_N).sum()),
            "changed": int(after.changed_N.sum()),
            "moved": int(after.displaced_N.sum()),
            "kept": same,
            "churn": (had - same) / had if had else 0.0,
        }
        log.info(
            "%s codes: %s items, %s of them new, %s changed, %s kept; churn %.2f %%",
            name,
            *(f"{own[figure]:,}" for figure in ("items", "new", "changed", "kept")),
            100 * own["churn"],
        )
        result |= {f"{name}_{figure}": float(value) for figure, value in own.items()}
    return result
