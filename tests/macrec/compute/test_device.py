"""What the stages share of the machine."""

import subprocess
import sys

import pytest

from macrec.compute import device as runtime

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


@pytest.mark.parametrize(
    ("line", "slow"),
    [
        ("flags\t\t: fpu avx512f avx512bw\n", True),
        ("flags\t\t: fpu avx512f avx512_bf16\n", False),
        ("flags\t\t: fpu amx_tile amx_bf16\n", False),
        ("Features\t: fp asimd bf16\n", False),
        ("Features\t: fp asimd\n", True),
        ("model name\t: one that tells no flags\n", False),
    ],
)
def test_a_cpu_without_bfloat16_is_known_by_its_flags(tmp_path, line, slow):
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\n{line}")
    assert runtime.bfloat16_is_slow(path) == slow
    assert not runtime.bfloat16_is_slow(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("precision", "device", "slow", "warned"),
    [
        ("bfloat16", "cpu", True, True),
        ("bfloat16", "cpu", False, False),
        ("bfloat16", "cuda", True, False),
        ("float32", "cpu", True, False),
        ("auto", "cpu", True, False),
    ],
)
def test_bfloat16_that_costs_time_is_warned_of_once(
    precision, device, slow, warned, monkeypatch, caplog
):
    monkeypatch.setattr(runtime, "bfloat16_is_slow", lambda: slow)
    runtime.warn_if_slow.cache_clear()
    for _ in range(2):
        runtime.warn_if_slow(precision, device)
    assert len(caplog.records) == warned
