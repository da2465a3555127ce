"""What the stages share of torch and transformers: the device, and no progress bars."""

import ctypes
from typing import TYPE_CHECKING, Final, Literal

from macrec.errors import UserError

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16"]
"""Of matrix products; weights and what is added up are float32 all the same."""

TrainingPrecision = Literal["auto", "bfloat16", "float32"]
"""auto: bfloat16 on a GPU, float32 on a CPU."""

M_TRIM_THRESHOLD: Final = -1  # malloc.h
M_TOP_PAD: Final = -2
M_MMAP_MAX: Final = -4


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


def low_precision(precision: TrainingPrecision, device_type: str) -> bool:
    """Whether the matrix products of a training are bfloat16 on such a device."""
    return precision == "bfloat16" or (precision, device_type) == ("auto", "cuda")


def keep_freed_memory() -> None:
    """Lets a training on a CPU use its memory again and again instead of giving it back.

    glibc returns every large block to the system and asks for it anew at the next step; the system
    then clears it page by page, which takes a fifth of the time of a step. Without glibc: nothing.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(M_MMAP_MAX, 0)
        set_option(M_TRIM_THRESHOLD, 2**31 - 1)
        set_option(M_TOP_PAD, 2**28)


def silence_progress_bars() -> None:
    """Turns off transformers' bars, which break the lines of a log."""
    from transformers.utils import logging

    logging.disable_progress_bar()
