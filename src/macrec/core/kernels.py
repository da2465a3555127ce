"""The numeric kernels of this process. The bytes of results depend on them and on the threads."""

import sys

from threadpoolctl import threadpool_info


def numeric_kernels() -> str:
    """Return the kernels of the numeric libraries that are loaded, and their threads.

    For example "openblas SkylakeX, torch AVX512, 2 threads". The variables OPENBLAS_CORETYPE,
    ATEN_CPU_CAPABILITY and OMP_NUM_THREADS choose other ones.
    """
    libraries = threadpool_info()
    names = [
        f"{library['internal_api']} {library['architecture']}"
        for library in libraries
        if library.get("architecture")
    ]
    if torch := sys.modules.get("torch"):
        names.append(f"torch {torch.backends.cpu.get_cpu_capability()}")
    threads = max((library["num_threads"] for library in libraries), default=1)
    return ", ".join([*dict.fromkeys(names), f"{threads} thread{'s' if threads > 1 else ''}"])
