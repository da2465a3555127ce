"""Helpers for torch and transformers: device, memory and progress bars."""

import ctypes
import re
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from macrec.core.errors import UserError

if TYPE_CHECKING:
    import torch

M_TRIM_THRESHOLD: Final = -1  # malloc.h
M_TOP_PAD: Final = -2
M_MMAP_MAX: Final = -4


def _check_device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", name):
        raise PydanticCustomError("device", "should be auto, cpu, cuda or cuda:N")
    return name


Device = Annotated[str, AfterValidator(_check_device)]
"""Device of a stage, as `choose_device` reads it."""


def choose_device(name: str) -> "torch.device":
    """Return the device for an Execution's setting; "auto" is a GPU if there is one.

    Raises:
        UserError: this machine has no such device.
    """
    import torch  # not at the head: every `spec.py` imports `Device` and must stay light

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name!r} cannot be used here: {reason}") from error
    return device


def keep_freed_memory() -> None:
    """Make training on a CPU reuse freed memory instead of returning it to the system.

    glibc returns every large block to the system and requests it again at the next step. The system
    then clears it page by page, which takes a fifth of the time of a step. Without glibc, nothing
    is changed.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(M_MMAP_MAX, 0)
        set_option(M_TRIM_THRESHOLD, 2**31 - 1)
        set_option(M_TOP_PAD, 2**28)


def silence_progress_bars() -> None:
    """Disable transformers' progress bars, which break the lines of a log."""
    from transformers.utils import logging

    logging.disable_progress_bar()
