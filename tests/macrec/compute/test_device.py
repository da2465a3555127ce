"""What the stages share of the machine."""

import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from macrec.compute.device import keep_freed_memory

torch.set_num_threads(1)
if {kept}:
    keep_freed_memory()

def use():
    torch.ones(1 << 24)  # 64 MiB, freed at once; glibc's own threshold never rises above 32

for _ in range(20):
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="about glibc's allocator")
def test_kept_memory_is_not_cleared_by_the_system_again():
    faults = {}
    for kept in (False, True):
        command = [sys.executable, "-c", FAULTS.format(kept=kept)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        faults[kept] = int(done.stdout)
    assert faults[False] >= 50 * 32  # every time anew, in pages of 2 MiB at the largest
    assert faults[True] < 50
