"""The processes of a torchrun start, which exchange tensors through torch.distributed.

Shape suffixes: B rows of a batch, D components.
"""

import os
from collections.abc import Iterable, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from macrec.core.processes import Processes

PATIENCE = timedelta(hours=2)
"""Longest wait of a process for the others; process 0 reads large catalogues for minutes."""


class ProcessGroup(Processes):
    """Several processes that compute one stage."""

    def sum(self, tensor: Tensor) -> None:
        """Replace the tensor by its sum over all processes."""
        dist.all_reduce(tensor)

    def sum_all(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one dtype by their sums over all processes, in a single exchange."""
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        self.sum(flat)
        sums = flat.split([tensor.numel() for tensor in tensors])
        for tensor, summed in zip(tensors, sums, strict=True):
            tensor.copy_(summed.view_as(tensor))

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Replace the tensors by those of process 0."""
        for tensor in tensors:
            dist.broadcast(tensor, 0)

    def agree(self, value: bool) -> bool:
        """Return the value that process 0 passed, in every process."""
        decision = torch.tensor([int(value)])
        self.spread([decision])
        return bool(decision)

    def any(self, values: Sequence[bool]) -> list[bool]:
        """Return, for each value, whether any process passed true."""
        counts = torch.tensor([int(value) for value in values])
        self.sum(counts)
        return [bool(count) for count in counts > 0]

    def join_rows(self, own_BD: Tensor, rows: int) -> Tensor:
        """Return the rows of all processes in order, gathered from the share of each.

        Gradients flow only to this process's rows. Every process computes the same function of the
        joined rows, so the gradient of its own rows is complete.
        """
        shares = [ProcessGroup(rank, self.count).share(rows) for rank in range(self.count)]
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

    def device(self, chosen: torch.device) -> torch.device:
        """Return the device of this process: its own GPU, if the chosen device is `cuda`."""
        if chosen.type != "cuda" or chosen.index is not None:
            return chosen
        own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", self.rank)))
        torch.cuda.set_device(own)
        return own


def join() -> ProcessGroup:
    """Join the process group that torchrun started, and return it."""
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
    return ProcessGroup(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """Leave the process group. Without this call, torch logs a warning at exit."""
    if dist.is_initialized():
        dist.destroy_process_group()
