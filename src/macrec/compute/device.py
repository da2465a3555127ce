"""What the stages share of torch and transformers: the device, and no progress bars."""

import ctypes
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from macrec.core.errors import UserError
from macrec.core.progress import log

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16"]
"""Of matrix products; weights and what is added up are float32 all the same."""

TrainingPrecision = Literal["auto", "bfloat16", "float32"]
"""auto: bfloat16 on a GPU, float32 on a CPU."""

CPUINFO: Final = Path("/proc/cpuinfo")
BFLOAT16_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""What Linux calls instructions for products of bfloat16, of x86 and of ARM."""

FLAG_LINES: Final = ("flags", "Features")
"""How the line with them begins, on x86 and on ARM."""

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


def bfloat16_is_slow(cpuinfo: Path = CPUINFO) -> bool:
    """Whether this CPU has no instructions for bfloat16, so that float32 is faster.

    Where the system does not tell (it is no Linux) it is taken to have them.
    """
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    flags = [line.split(":", 1)[1].split() for line in lines if line.startswith(FLAG_LINES)]
    return bool(flags) and BFLOAT16_FLAGS.isdisjoint(flags[0])


@cache  # once in a process
def warn_if_slow(precision: TrainingPrecision, device_type: str) -> None:
    """Says so where bfloat16 was asked for and costs time."""
    if device_type == "cpu" and low_precision(precision, device_type) and bfloat16_is_slow():
        log.warning(
            "bfloat16 on a CPU without instructions for it (AVX-512 BF16, AMX, ARM BF16) takes "
            "longer than float32: set the precision to float32."
        )


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
