"""Several processes that compute one stage together, as torchrun starts them.

Each has the whole catalogue and the whole model, takes its share of every batch, and ends every
step with the same parameters. Process 0 alone reads and writes what lies outside of them.

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
"""How long a process waits for the others: process 0 alone reads large catalogues for minutes."""


class Processes:
    """The processes of a stage; alone, every exchange leaves things as they are."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    @property
    def first(self) -> bool:
        """Whether this is process 0."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """This process's part of so many rows; parts differ by one row at most."""
        return slice(rows * self.rank // self.count, rows * (self.rank + 1) // self.count)

    def sum(self, tensor: "Tensor") -> None:
        """Replaces the tensor by its sum over the processes."""
        if self.count > 1:
            import torch.distributed as dist

            dist.all_reduce(tensor)

    def sum_all(self, tensors: "Sequence[Tensor]") -> None:
        """Replaces tensors of one type by their sums over the processes, in a single exchange."""
        if self.count > 1:
            import torch

            flat = torch.cat([tensor.flatten() for tensor in tensors])
            self.sum(flat)
            sums = flat.split([tensor.numel() for tensor in tensors])
            for tensor, summed in zip(tensors, sums, strict=True):
                tensor.copy_(summed.view_as(tensor))

    def spread(self, tensors: Iterable["Tensor"]) -> None:
        """Replaces the tensors by those of process 0."""
        if self.count > 1:
            import torch.distributed as dist

            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def agree(self, value: bool) -> bool:
        """What process 0 says."""
        if self.count == 1:
            return value
        import torch

        said = torch.tensor([int(value)])
        self.spread([said])
        return bool(said)

    def join_rows(self, own_BD: "Tensor", rows: int) -> "Tensor":
        """The rows of all processes, in order, from the share of each.

        A gradient reaches this process's rows alone. Each process computes on the joined rows what
        the others compute, so that its gradient of its own rows is whole.
        """
        if self.count == 1:
            return own_BD
        import torch
        import torch.distributed as dist

        shares = [Processes(rank, self.count).share(rows) for rank in range(self.count)]
        most = max(share.stop - share.start for share in shares)  # all must send equally many
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
        """The device of this process: of several processes each has a GPU of its own."""
        import torch

        if self.count == 1 or chosen.type != "cuda" or chosen.index is not None:
            return chosen
        own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", self.rank)))
        torch.cuda.set_device(own)
        return own


ALONE = Processes()


def processes() -> Processes:
    """Those that torchrun has started, joined; this one alone if it has not."""
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
    """Parts from the other processes; without it they would complain."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()
