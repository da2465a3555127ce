"""Several processes that compute one stage together, as started by torchrun.

Each process has the whole catalogue and the whole model. It computes its share of every batch and
has the same parameters as the others after every step. Only process 0 reads and writes external
data.

This module is light: a single process never needs torch for an exchange, and a stage whose result
is reused must not load it. `macrec.core.process_group` has the exchanges of several processes.

Shape suffixes: B rows of a batch, D components.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Processes:
    """The processes of a stage. In this base class, that of a single one, exchanges do nothing."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    @property
    def is_first(self) -> bool:
        """Return whether this is process 0."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """Return this process's slice of `rows` rows; slices differ by at most one row."""
        return slice(rows * self.rank // self.count, rows * (self.rank + 1) // self.count)

    def sum(self, tensor: "Tensor") -> None:
        """Replace the tensor by its sum over all processes."""

    def sum_all(self, tensors: "Sequence[Tensor]") -> None:
        """Replace tensors of one dtype by their sums over all processes, in a single exchange."""

    def spread(self, tensors: Iterable["Tensor"]) -> None:
        """Replace the tensors by those of process 0."""

    def agree(self, value: bool) -> bool:
        """Return the value that process 0 passed, in every process."""
        return value

    def any(self, values: Sequence[bool]) -> list[bool]:
        """Return, for each value, whether any process passed true."""
        return list(values)

    def join_rows(self, own_BD: "Tensor", rows: int) -> "Tensor":
        """Return the rows of all processes in order, gathered from the share of each."""
        return own_BD

    def device(self, chosen: "torch.device") -> "torch.device":
        """Return the device of this process."""
        return chosen


ALONE = Processes()
