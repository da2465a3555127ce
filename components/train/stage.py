"""Stage train: trains the generative recommender (MACRec section on the generator, L_rec)."""

import json
import time

from components.train.auto_sizes import resolve_sizes
from components.train.generator_training import prepare, train
from components.train.generator_validation import fused_ndcg, validation_split
from components.train.inputs import read_codes, without_absent
from components.train.rows import training_data
from components.train.spec import Execution, Inputs, Outputs, Settings
from macrec.core.stage import Job, Metrics
from macrec.data.sequences import read_sequences
from macrec.generator.model import Recommender, build_model, save_recommender
from macrec.generator.tokens import present_modalities


def run(job: Job[Settings, Inputs, Outputs, Execution]) -> Metrics:
    """Train, and save the weights with the best validation NDCG@10 of the fused list.

    If items have codes in one modality only, its list takes the place of the fused list. Of several
    processes, only the first writes and returns metrics.
    """
    codes, vocabulary = read_codes(job.inputs.semantic_ids)
    config = resolve_sizes(job.settings, items=len(codes[0]))
    config = without_absent(config, present_modalities(*codes))
    sequences = read_sequences(job.inputs.sequences, items=len(codes[0]))
    data = training_data(
        vocabulary,
        sequences,
        codes,
        config.tasks,
        max_history=config.max_history,
        augment=config.augment,
        use_pairs=config.use_pairs,
        windows=config.encoder == "causal",
        source=config.source,
    )
    validation = validation_split(
        sequences, config.validation_users, config.seed, config.seen_items
    )
    together = job.processes
    device = prepare(config.seed, job.execution.device, job.execution.threads, together)
    model = build_model(vocabulary, config.model_size)
    model.to(device)  # pyright: ignore[reportArgumentType]
    recommender = Recommender(model, vocabulary, *codes, config.max_history)
    trained = train(
        model,
        data,
        config,
        fused_ndcg(recommender, validation, config, job.execution, device, together),
        device,
        checkpoints=job.checkpoints(job.execution.checkpoint_seconds),
        processes=together,
        clock=time.monotonic,
    )
    if not together.is_first:
        return {}
    model.to("cpu")  # pyright: ignore[reportArgumentType]
    save_recommender(job.outputs.recommender.path, recommender)
    curve = json.dumps(trained.curve, indent=1, allow_nan=False) + "\n"
    (job.outputs.recommender.path / "history.json").write_text(curve, encoding="utf-8")
    return trained.metrics()
