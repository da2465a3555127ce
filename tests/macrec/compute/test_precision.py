"""Precision of matrix products, and CPUs without bfloat16."""

import pytest

from macrec.compute import precision


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
    assert precision.bfloat16_is_slow(path) == slow
    assert not precision.bfloat16_is_slow(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("chosen", "device", "slow", "warned"),
    [
        ("bfloat16", "cpu", True, True),
        ("bfloat16", "cpu", False, False),
        ("bfloat16", "cuda", True, False),
        ("float32", "cpu", True, False),
        ("auto", "cpu", True, False),
    ],
)
def test_bfloat16_that_costs_time_is_warned_of_once(
    chosen, device, slow, warned, monkeypatch, caplog
):
    monkeypatch.setattr(precision, "bfloat16_is_slow", lambda: slow)
    precision.warn_if_slow.cache_clear()
    for _ in range(2):
        precision.warn_if_slow(chosen, device)
    assert len(caplog.records) == warned
