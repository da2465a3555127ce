"""Helpers for torch and transformers: device, precision, memory and progress bars."""

import ctypes
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from macrec.core.errors import UserError
from macrec.core.progress import log

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16"]
"""Precision of matrix products; weights and accumulated sums are float32 in either case."""

TrainingPrecision = Literal["auto", "bfloat16", "float32"]
"""Precision of a training's matrix products; auto is bfloat16 on a GPU and float32 on a CPU."""

CPUINFO: Final = Path("/proc/cpuinfo")
BFLOAT16_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Linux CPU flags of the instructions for bfloat16 products, on x86 and on ARM."""

FLAG_LINES: Final = ("flags", "Features")
"""Prefixes of the line with these flags, on x86 and on ARM."""

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
    """Return whether training uses bfloat16 for matrix products on a device of this type."""
    return precision == "bfloat16" or (precision, device_type) == ("auto", "cuda")


def bfloat16_is_slow(cpuinfo: Path = CPUINFO) -> bool:
    """Return whether this CPU has no instructions for bfloat16, so that float32 is faster.

    A system other than Linux does not list its CPU flags and is assumed to have the instructions.
    """
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    flags = [line.split(":", 1)[1].split() for line in lines if line.startswith(FLAG_LINES)]
    return bool(flags) and BFLOAT16_FLAGS.isdisjoint(flags[0])


@cache  # once per process
def warn_if_slow(precision: TrainingPrecision, device_type: str) -> None:
    """Log a warning if bfloat16 is selected but slower than float32 on this CPU."""
    if device_type == "cpu" and low_precision(precision, device_type) and bfloat16_is_slow():
        log.warning(
            "bfloat16 on a CPU without instructions for it (AVX-512 BF16, AMX, ARM BF16) takes "
            "longer than float32: set the precision to float32."
        )


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
