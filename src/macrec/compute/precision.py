"""The precision of matrix products, and where bfloat16 is slow."""

from functools import cache
from pathlib import Path
from typing import Final, Literal

from macrec.core.progress import log

Precision = Literal["float32", "bfloat16"]
"""Precision of matrix products; weights and accumulated sums are float32 in either case."""

TrainingPrecision = Literal["auto", "bfloat16", "float32"]
"""Precision of a training's matrix products; auto is bfloat16 on a GPU and float32 on a CPU."""

CPUINFO: Final = Path("/proc/cpuinfo")
BFLOAT16_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Linux CPU flags of the instructions for bfloat16 products, on x86 and on ARM."""

FLAG_LINES: Final = ("flags", "Features")
"""Prefixes of the line with these flags, on x86 and on ARM."""


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
