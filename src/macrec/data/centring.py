"""The mean that an embedding stage has subtracted, kept beside the vectors and with the quantizer.

It is that of the catalogue embedded. A quantizer knows the vectors of its own catalogue less THEIR
mean, so those of a later catalogue are brought to that mean before it encodes them.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from macrec.core.artifact import Artifact
from macrec.core.errors import UserError

MEAN = "mean.safetensors"


def write_means(folder: Path, means: Mapping[str, np.ndarray]) -> None:
    """Writes one float32 vector per name into an artifact's folder."""
    from safetensors.numpy import save_file

    save_file({name: np.asarray(mean, np.float32) for name, mean in means.items()}, folder / MEAN)


def subtracted(embeddings: Artifact) -> np.ndarray:
    """What was subtracted from the vectors of an embeddings artifact, float32 [E]; or zeros."""
    if not embeddings.has(MEAN):
        return np.zeros(embeddings.schema.field("embedding").type.list_size, np.float32)
    return _load(embeddings)["embedding"]


def trained_on(quantizer: Artifact) -> dict[str, np.ndarray]:
    """What was subtracted from the vectors that a quantizer was trained on, by modality.

    Raises:
        UserError: the quantizer does not say.
    """
    if not quantizer.has(MEAN):
        raise UserError(
            f"{quantizer.path}: no {MEAN}, so it is not known which mean its vectors lack. Run the "
            "quantize stage again with this version."
        )
    return _load(quantizer)


def _load(artifact: Artifact) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(artifact.file(MEAN))
