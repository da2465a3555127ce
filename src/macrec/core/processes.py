"""Several processes that compute one stage together, as started by torchrun.

Each process has the whole catalogue and the whole model. It computes its share of every batch and
has the same parameters as the others after every step. Only process 0 reads and writes external
data.

Shape suffixes: B rows of a batch, D components.
"""

import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PATIENCE = timedelta(hours=2)
"""Longest wait of a process for the others; process 0 reads large catalogues for minutes."""


class Processes:
    """The processes of a stage. With a single process, every exchange does nothing."""

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
        if self.count > 1:
            import torch.distributed as dist

            dist.all_reduce(tensor)

    def sum_all(self, tensors: "Sequence[Tensor]") -> None:
        """Replace tensors of one dtype by their sums over all processes, in a single exchange."""
        if self.count > 1:
            import torch

            flat = torch.cat([tensor.flatten() for tensor in tensors])
            self.sum(flat)
            sums = flat.split([tensor.numel() for tensor in tensors])
            for tensor, summed in zip(tensors, sums, strict=True):
                tensor.copy_(summed.view_as(tensor))

    def spread(self, tensors: Iterable["Tensor"]) -> None:
        """Replace the tensors by those of process 0."""
        if self.count > 1:
            import torch.distributed as dist

            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def agree(self, value: bool) -> bool:
        """Return the value that process 0 passed, in every process."""
        if self.count == 1:
            return value
        import torch

        said = torch.tensor([int(value)])
        self.spread([said])
        return bool(said)

    def join_rows(self, own_BD: "Tensor", rows: int) -> "Tensor":
        """Return the rows of all processes in order, gathered from the share of each.

        Gradients flow only to this process's rows. Every process computes the same function of the
        joined rows, so the gradient of its own rows is complete.
        """
        if self.count == 1:
            return own_BD
        import torch
        import torch.distributed as dist

        shares = [Processes(rank, self.count).share(rows) for rank in range(self.count)]
        most = max(share.stop - share.start for share in shares)  # all_gather needs equal sizes
        sent_BD = own_BD.new_zeros((most, *own_BD.shape[1:]))
        sent_BD[: len(own_BD)] = own_BD.detach()
        received = [torch.empty_like(sent_BD) for _ in shares]
        dist.all_gather(received, sent_BD)
        parts = [
            part[: share.stop - share.start] for part, share in zip(received, shares, strict=True)
        ]
        parts[self.rank] = own_BD
        return torch.cat(parts)

    def device(self, chosen: "torch.device") -> "torch.device":
        """Return the device of this process; each of several processes has its own GPU."""
        import torch

        if self.count == 1 or chosen.type != "cuda" or chosen.index is not None:
            return chosen
        own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", self.rank)))
        torch.cuda.set_device(own)
        return own


ALONE = Processes()


def processes() -> Processes:
    """Join and return the processes that torchrun started; without torchrun, this one alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return ALONE
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
    return Processes(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """Leave the process group. Without this call, torch logs a warning at exit."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()
