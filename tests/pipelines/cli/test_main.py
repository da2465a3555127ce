"""The `macrec` command as a whole: how fast it answers, and how it ends."""

import os
import resource
import subprocess
import sys

import pytest

from pipelines.cli import main
from tests.pipelines.conftest import ROOT

MACREC = [sys.executable, "-m", "pipelines.cli.main"]


def processor_seconds(*command: str) -> float:
    """Seconds of processor time of a command: what else the machine does does not count."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_the_help_is_there_in_less_than_a_second():
    """0.5 s on an idle machine; torch alone takes one more."""
    assert min(processor_seconds(*MACREC, "--help") for _ in range(3)) < 0.7


@pytest.mark.parametrize("heavy", ["torch", "kfp", "docker", "transformers"])
def test_the_command_line_is_read_without_heavy_libraries(heavy):
    program = (
        "import sys; from pipelines.cli.main import _parser; _parser(); "
        f"sys.exit({heavy!r} in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_a_reader_that_has_enough_is_no_error():
    """`macrec settings quantize | head -n 1`: more is printed than a pipe holds."""
    command = [sys.executable, "-m", "pipelines.cli.main", "settings", "--schema"]
    reader, writer = os.pipe()
    process = subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE, cwd=ROOT)
    os.close(writer)
    os.close(reader)
    _, log = process.communicate(timeout=60)
    assert log == b"" and process.returncode == main.EXIT_READER_GONE
