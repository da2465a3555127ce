"""Stage train: fits the generative recommender (MACRec section on the generator, L_rec)."""

import json
import sys
import time
from dataclasses import dataclass

from components.train.config import Config
from components.train.generator_validation import fused_ndcg, validation_split
from components.train.inputs import read_codes, without_absent
from components.train.rows import training_data
from macrec.core import stage
from macrec.core.artifact import Artifact, FolderOutput, Json
from macrec.data.sequences import read_sequences
from macrec.generator.model import Recommender, build_model, save_recommender
from macrec.generator.tokens import present_modalities


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where it runs."""

    device: str = "auto"
    """cpu, cuda, or auto: cuda when there is one."""
    threads: int = 0
    """CPU threads; 0 leaves the choice to torch. Sums are taken in parts, one a thread: the same
    bytes come again only with as many threads."""
    validation_batch: int = 64
    """Users ranked together in validation."""
    checkpoint_seconds: float = 300.0
    """Time between two checkpoints; they lie in the store, without which there are none."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What is learned from."""

    sequences: Artifact
    """Users' items in time order."""
    semantic_ids: Artifact
    """Codes of every item."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What comes out."""

    recommender: FolderOutput
    """T5 model, vocabulary and semantic IDs; history.json is the learning curve."""


def not_run(config: Config) -> set[tuple[str, str]]:
    """Validation ranks without neighbours: how they are counted leaves a training valid."""
    return {
        (f"macrec.ranking.{name}", "macrec.ranking.neighbours") for name in ("ranker", "candidates")
    }


DISTRIBUTED = True  # torchrun may start several processes


def run(
    config: Config,
    inputs: Inputs,
    outputs: Outputs,
    execution: Execution,
    checkpoint_uri: str = "",
    made_for: Json | None = None,
) -> stage.Metrics:
    """Trains, keeps the weights with the best validation NDCG@10 of the fused list, saves them.

    Where items have codes in one modality alone, its list takes the place of the fused one. Of
    several processes the first alone writes and has metrics.
    """
    codes, vocabulary = read_codes(inputs.semantic_ids)
    config = without_absent(config, present_modalities(*codes))
    sequences = read_sequences(inputs.sequences, items=len(codes[0]))
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

    from components.train.generator_training import prepare, train
    from macrec.core.checkpoint import Checkpoints
    from macrec.core.processes import processes

    together = processes()
    device = prepare(config.seed, execution.device, execution.threads, together)
    model = build_model(vocabulary, config.model_size)
    model.to(device)  # pyright: ignore[reportArgumentType]
    recommender = Recommender(model, vocabulary, *codes, config.max_history)
    trained = train(
        model,
        data,
        config,
        fused_ndcg(recommender, validation, config, execution, device, together),
        device,
        checkpoints=Checkpoints(checkpoint_uri, execution.checkpoint_seconds, made_for=made_for),
        processes=together,
        clock=time.monotonic,
    )
    if not together.first:
        return {}
    model.to("cpu")  # pyright: ignore[reportArgumentType]
    save_recommender(outputs.recommender.path, recommender)
    curve = json.dumps(trained.curve, indent=1, allow_nan=False) + "\n"
    (outputs.recommender.path / "history.json").write_text(curve, encoding="utf-8")
    return trained.metrics()


if __name__ == "__main__":
    stage.main(sys.modules[__name__])
