"""Lists all stages in pipeline order; everything that enumerates stages is derived from it."""

import difflib

from components.baselines.spec import STAGE as BASELINES
from components.check_run.spec import STAGE as CHECK_RUN
from components.embed_histories.spec import STAGE as EMBED_HISTORIES
from components.embed_image.spec import STAGE as EMBED_IMAGE
from components.embed_text.spec import STAGE as EMBED_TEXT
from components.encode_items.spec import STAGE as ENCODE_ITEMS
from components.evaluate.spec import STAGE as EVALUATE
from components.prepare_data.spec import STAGE as PREPARE_DATA
from components.pseudo_label.spec import STAGE as PSEUDO_LABEL
from components.quantize.spec import STAGE as QUANTIZE
from components.recommend.spec import STAGE as RECOMMEND
from components.resolve_collisions.spec import STAGE as RESOLVE_COLLISIONS
from components.train.spec import STAGE as TRAIN
from macrec.core.errors import UserError
from macrec.core.stage import Stage

STAGES = (
    CHECK_RUN,
    PREPARE_DATA,
    EMBED_TEXT,
    EMBED_IMAGE,
    EMBED_HISTORIES,
    PSEUDO_LABEL,
    QUANTIZE,
    RESOLVE_COLLISIONS,
    TRAIN,
    EVALUATE,
    RECOMMEND,
    ENCODE_ITEMS,
    BASELINES,
)


def stage_named(name: str) -> Stage:
    """Return the stage with the given name.

    Raises:
        UserError: there is no stage with this name.
    """
    for stage in STAGES:
        if stage.name == name:
            return stage
    near = difflib.get_close_matches(name.replace("-", "_"), [s.name for s in STAGES], 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise UserError(f"no stage {name}.{hint} Stages: {', '.join(stage.name for stage in STAGES)}.")
