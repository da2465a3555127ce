"""What the stages share of torch and transformers: the device, and no progress bars."""

from typing import TYPE_CHECKING

from macrec.errors import UserError

if TYPE_CHECKING:
    import torch


def choose_device(name: str) -> "torch.device":
    """The device of an Execution: "auto" is a GPU when there is one.

    Raises:
        UserError: there is no such device here.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name!r} cannot be used here: {reason}") from error
    return device


def silence_progress_bars() -> None:
    """Turns off transformers' bars, which break the lines of a log."""
    from transformers.utils import logging

    logging.disable_progress_bar()
