"""The mean that an embedding stage subtracts, stored with the vectors and with the quantizer.

It is the mean over the embedded catalogue. A quantizer is trained on the vectors of its own
catalogue minus THEIR mean. Vectors of a later catalogue are therefore shifted to that mean before
they are encoded.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from macrec.core.artifact import Artifact
from macrec.core.errors import UserError

MEAN = "mean.safetensors"


def write_means(folder: Path, means: Mapping[str, np.ndarray]) -> None:
    """Write one float32 mean vector per name into an artifact's folder."""
    save_file({name: np.asarray(mean, np.float32) for name, mean in means.items()}, folder / MEAN)


def read_mean(embeddings: Artifact) -> np.ndarray:
    """Return the mean subtracted from an embeddings artifact, float32 [E]; zeros if none was."""
    if not embeddings.has(MEAN):
        return np.zeros(embeddings.schema.field("embedding").type.list_size, np.float32)
    return _load(embeddings)["embedding"]


def read_quantizer_means(quantizer: Artifact) -> dict[str, np.ndarray]:
    """Return the means subtracted from a quantizer's training vectors, by modality.

    Raises:
        UserError: the quantizer contains no means.
    """
    if not quantizer.has(MEAN):
        raise UserError(
            f"{quantizer.path}: no {MEAN}, so the mean that was subtracted from its vectors is "
            "unknown. Run the "
            "quantize stage again with this version."
        )
    return _load(quantizer)


def _load(artifact: Artifact) -> dict[str, np.ndarray]:
    return load_file(artifact.file(MEAN))
