"""Settings that the attention models share, their validation, and their search space."""

from dataclasses import dataclass
from typing import Any, Final

from macrec.core.errors import check


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Size of the network and settings of the optimiser."""

    width: int = 64
    """Embedding dimension D."""
    layers: int = 2
    """Number of Transformer blocks."""
    heads: int = 2
    """Number of attention heads per block. It must divide `width`."""
    inner: int = 64
    """Hidden dimension of the feed-forward layers."""
    dropout: float = 0.5
    """Dropout rate."""
    learning_rate: float = 1e-3
    """Learning rate of AdamW."""
    weight_decay: float = 0.01
    """Weight decay of AdamW. It applies to matrices only."""
    batch_size: int = 128
    """Number of histories per training step."""

    def __post_init__(self) -> None:
        model = type(self).__module__.rpartition(".")[2]
        problems = self.problems()
        check(not problems, f"{model}: {'; '.join(problems)}.")

    def problems(self) -> list[str]:
        """Return an error message for each invalid value."""
        sizes = ("width", "layers", "heads", "inner", "batch_size")
        problems = [f"{name} is below 1" for name in sizes if getattr(self, name) < 1]
        if not problems and self.width % self.heads:
            problems.append("width is no multiple of heads")
        problems += [] if 0 <= self.dropout < 1 else ["dropout is not in 0..1, 1 excluded"]
        problems += [] if self.learning_rate > 0 else ["learning_rate is not above 0"]
        problems += [] if self.weight_decay >= 0 else ["weight_decay is negative"]
        return problems


ATTENTION_SPACE: Final[dict[str, tuple[Any, ...]]] = {
    "width": (32, 64, 128),
    "layers": (1, 2, 3),
    "heads": (1, 2, 4),
    "inner": (64, 256),
    "dropout": (0.2, 0.35, 0.5, 0.65),
    "learning_rate": (5e-4, 1e-3, 2e-3),
    "weight_decay": (0.0, 0.01, 0.1),
    "batch_size": (64, 128, 256),
}
