"""Stage prepare_data: turns the catalogue and the interaction log into items and sequences.

All problems of the input are reported in one message, before anything is written.
"""

import numpy as np

from components.prepare_data.catalogue import item_batches, regroup
from components.prepare_data.interactions import batches
from components.prepare_data.spec import Execution, Inputs, Outputs, Settings
from components.prepare_data.validation import validate
from macrec.core.artifact import ROWS_PER_GROUP
from macrec.core.progress import log
from macrec.core.stage import Job, Metrics
from macrec.data import schema


def run(job: Job[Settings, Inputs, Outputs, Execution]) -> Metrics:
    """Validate the catalogue and the log, filter them, and write items and sequences.

    Interactions of a user are sorted by time; equal times keep the order of the log. Repeats of the
    same user, item and time are dropped. The same item at another time is kept.

    Raises:
        UserError: the input has problems; the message lists all of them.
    """
    items_path = job.inputs.catalog.path()
    report = validate(job.settings, items_path, job.inputs.interactions.path())
    prepared = report.checked()
    for line in report.lines():
        log.info("%s", line)
    with job.outputs.items.dataset(schema.ITEMS) as out:
        kept = item_batches(job.settings, items_path, prepared.keep_item)
        for table in regroup(kept, ROWS_PER_GROUP):
            out.write(table)
    item_index = np.cumsum(prepared.keep_item, dtype=np.int32) - 1
    with job.outputs.sequences.dataset(schema.SEQUENCES) as out:
        for batch in batches(prepared.log, prepared.user_ids, item_index):
            out.write(batch)
    return report.metrics
