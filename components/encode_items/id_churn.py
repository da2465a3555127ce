"""How much of the version before stands in the next one.

Shape suffix: N new items.
"""

from collections.abc import Mapping

import numpy as np

from macrec.core.progress import log
from macrec.core.stage import Metrics
from macrec.tokenizer.measures import has_codes
from macrec.tokenizer.renewal import Renewed


def figures(row_N: np.ndarray, before: int, renewed: Mapping[str, Renewed]) -> Metrics:
    """Counts of the catalogue, and of each modality under its name.

    `items`, `new`, `removed`. Per modality: `items` with codes, `new` ones without codes before,
    `lost` ones without codes now, `changed` ones that call for other codes, `moved` ones that got
    an ID now but not the nearest, `kept` IDs, and `churn`, the share of the IDs before, of items
    still there, that are not the same.

    Args:
        row_N: row of each item in the version before, -1 for a new one.
        before: items of the version before.
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
