"""The kernels that a process names are those that its environment has chosen."""

import os
import subprocess
import sys

import pytest

PROGRAM = "import numpy, torch; from macrec.core.kernels import numeric_kernels as k; print(k())"


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("OPENBLAS_CORETYPE", "Haswell", "openblas Haswell"),
        ("ATEN_CPU_CAPABILITY", "default", "torch DEFAULT"),
        ("OPENBLAS_NUM_THREADS", "2", "2 threads"),
        ("OPENBLAS_NUM_THREADS", "1", "1 thread"),
    ],
)
def test_the_environment_chooses_the_kernels_that_are_named(variable, value, named):
    chosen = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | chosen | {variable: value, "PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert named in done.stdout
