"""The `macrec` command as a whole: its help, its speed, its exit codes."""

import ast
import inspect
import os
import re
import resource
import subprocess
import sys

import pytest

from macrec.core.errors import TryAgain
from pipelines.cli import main, settings_page, stage_passthrough
from tests.pipelines.conftest import ROOT

MACREC = [sys.executable, "-m", "pipelines.cli.main"]
HEAVY = ("torch", "transformers", "kfp", "docker", "sklearn", "jinja2")


def processor_seconds(*command: str) -> float:
    """Seconds of processor time of a command: what else the machine does does not count."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def imported_by(*arguments):
    """The packages that a command imports."""
    program = (
        f"import sys; from pipelines.cli.main import run_command; run_command({arguments!r}); "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return set(done.stdout.splitlines()[-1].split())


def test_the_help_is_fast():
    assert min(processor_seconds(*MACREC, "--help") for _ in range(3)) < 0.7


def test_the_help_imports_no_stage():
    heavy = {*HEAVY, "numpy", "pyarrow", "pydantic", "yaml", "rich", "components"}
    assert not heavy & imported_by("--help")


@pytest.mark.parametrize("name", ["run", "submit", "status", "compile", "settings", "stage", "gc"])
def test_a_group_of_commands_is_imported_without_heavy_libraries(name):
    assert not {*HEAVY} & imported_by(name, "--help")


def test_the_help_lists_every_command(here):
    called = here("--help")
    assert called.code == 0
    lines = dict(line.split(maxsplit=1) for line in called.out.splitlines() if " " in line.strip())
    assert set(main.COMMANDS) <= set(lines)
    assert here("-h").out == called.out


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_has_the_help_that_the_list_shows(name, here):
    called = here(name, "-h")
    assert called.code == 0 and called.out.startswith(f"Usage: macrec {name} ")
    first = inspect.cleandoc(main.load(name).help).partition("\n\n")[0]
    assert " ".join(first.split()) == main.COMMANDS[name].help
    options = [p for p in main.load(name).params if p.param_type_name == "option"]
    assert all(option.help for option in options)


def test_the_files_import_at_their_heads():
    # `macrec bench --help` must not load torch, which all of the bench needs.
    exceptions = {"bench_commands.py"}
    for path in (ROOT / "pipelines" / "cli").glob("*.py"):
        if path.name in exceptions:
            continue
        nodes = ast.walk(ast.parse(path.read_text()))
        imports = [n for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)]
        assert not [node.lineno for node in imports if node.col_offset], path.name


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["command"]),
        (["rum"], ["no command rum", "Did you mean run?", "macrec --help"]),
        (["--verbose"], ["--verbose", "macrec --help"]),
        (["run"], ["--out", "macrec run --help"]),
        (["run", "--out"], ["--out", "macrec run --help"]),
        (["submit", "--itmes", "x"], ["--itmes", "--items", "macrec submit --help"]),
        (["compare", "a"], ["RUN_B"]),
        (["compile", "--embedding-shards", "x"], ["--embedding-shards", "integer"]),
        (["compile", "--pipeline", "train"], ["--pipeline", "recommender", "encode"]),
        (["images", "build", "tpu"], ["tpu", "cpu", "gpu", "macrec images build --help"]),
        (["settings", "quantise"], ["no stage quantise", "quantize"]),
        (["stage", "quantise"], ["no stage quantise", "quantize"]),
        (["gc", "absent"], ["absent", "blobs, records"]),
    ],
)
def test_a_wrong_command_line_ends_with_2(here, arguments, parts):
    called = here(*arguments)
    assert called.code == 2 and not called.out
    assert all(part in called.err for part in parts), called.err
    assert "Traceback" not in called.err


def test_a_failure_of_the_network_ends_with_75(here, monkeypatch):
    def fails():
        raise TryAgain("gs://shop: no response")

    monkeypatch.setattr(settings_page, "list_fields", fails)
    called = here("settings")
    assert called.code == 75 and "gs://shop: no response" in called.err


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), EOFError("x"), OSError(5, "x")])
def test_any_other_error_keeps_its_traceback(monkeypatch, error):
    def fails():
        raise error

    monkeypatch.setattr(settings_page, "list_fields", fails)
    with pytest.raises(type(error)) as caught:
        main.main(["settings"])
    assert caught.traceback[-1].name == "fails"


@pytest.mark.parametrize("arguments", [["settings", "--schema"], ["run", "--help"], ["--help"]])
def test_a_reader_that_leaves_is_no_error(arguments):
    """`macrec settings --schema | head -n 1`: more is printed than a pipe holds."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [*MACREC, *arguments], stdout=writer, stderr=subprocess.PIPE, cwd=ROOT
    )
    os.close(writer)
    os.close(reader)
    _, log = process.communicate(timeout=60)
    assert log == b"" and process.returncode == main.EXIT_READER_GONE


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--out", "x", "--set", "epochs=1", "--containers", "--", "rest"],
        ["positional", "-h", "--name", "--unknown=1"],
        [],
    ],
)
def test_a_stage_receives_its_arguments_unchanged(here, monkeypatch, arguments):
    received = []
    monkeypatch.setattr(
        stage_passthrough.stage_command, "main", lambda stage, argv: received.append((stage, argv))
    )
    assert here("stage", "train", *arguments).code == 0
    ((stage, argv),) = received
    assert stage.name == "train" and argv == arguments


def test_the_help_of_a_stage_is_its_own(macrec):
    called = macrec("stage", "quantize", "--help")
    assert called.code == 0 and "--pseudo-labels" in called.out
    assert re.search(r"prepare_data,\s+embed_text", macrec("stage", "--help").out)
