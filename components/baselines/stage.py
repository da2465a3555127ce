"""Stage baselines: trains one baseline with the same split and the same ranking as MACRec."""

import time

import torch

from components.baselines import baseline_ranking, model_folder
from components.baselines.baseline_ranking import Protocol, validator
from components.baselines.entries import ENTRIES
from components.baselines.interface import Data, TrainingSchedule
from components.baselines.registry import baseline, read_settings
from components.baselines.spec import Execution, Inputs, Outputs, Settings
from macrec.core.errors import UserError
from macrec.core.stage import Job, Metrics
from macrec.data import schema
from macrec.data.sequences import should_drop_seen
from macrec.data.split import Split, read_split


def run(job: Job[Settings, Inputs, Outputs, Execution]) -> Metrics:
    """Train the model on the training part and rank the whole catalogue for every test user.

    The last item of a history is the test item, the second to last is the validation item. At test
    time the history includes the validation item. `seen_items` decides whether lists may contain
    seen items, as in evaluate.

    Raises:
        UserError: the settings or the inputs do not fit the model, or there is no test user.
    """
    module = baseline(job.settings.model)
    own = module.Config(**read_settings(job.settings.model, job.settings.settings))
    split, data, schedule = open_data(job.settings, job.inputs, job.execution)
    started = time.monotonic()
    fitted = module.fit(own, data, schedule)
    seconds = time.monotonic() - started
    with job.outputs.predictions.dataset(schema.PREDICTIONS) as out:
        tested = baseline_ranking.test(
            fitted.model,
            job.settings.model,
            split,
            data.items,
            protocol_of(job.settings, split, job.execution),
            top_k=job.settings.top_k,
            write=out.write,
        )
    model_folder.save(job.outputs.fitted.path, job.settings.model, own, data, fitted)
    return baseline_ranking.figures(tested, split, data.items) | {
        "validation_ndcg_10": schedule.validate(fitted.model),
        "parameters": float(fitted.model.parameters),
        "train_seconds": seconds,
        "epochs": float(len(fitted.curve)),
    }


def protocol_of(config: Settings, split: Split, execution: Execution) -> Protocol:
    """Return the ranking protocol, which is the same for every model."""
    drop_seen = should_drop_seen(config.seen_items, split.sequences)
    return Protocol(config.max_history, drop_seen, execution.batch_size)


def open_data(
    config: Settings, inputs: Inputs, execution: Execution
) -> tuple[Split, Data, TrainingSchedule]:
    """Read the histories and build the training data and the training schedule.

    Raises:
        UserError: an input that the model reads is missing.
    """
    if execution.threads:
        torch.set_num_threads(execution.threads)
    reads = ENTRIES[config.model].reads
    given = {name: artifact for name in reads if (artifact := getattr(inputs, name))}
    absent = ", ".join(name for name in reads if name not in given)
    if absent:
        raise UserError(f"baselines: {config.model} reads {absent}. Give it, or another model.")
    items = inputs.items.rows
    split = read_split(inputs.sequences, items)
    training = split.training()
    for array in (training.items, training.offsets):
        array.setflags(write=False)  # an in-place sort by one trial would corrupt the next
    data = Data(items, training, config.max_history, given)
    schedule = TrainingSchedule(
        config.epochs,
        config.patience,
        config.decay,
        config.validate_every,
        config.seed,
        execution.device,
        validator(split, protocol_of(config, split, execution)),
    )
    return split, data, schedule
