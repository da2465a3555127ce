"""Every setting of every stage, flipped: what changes the result is computed again, nothing else.

The stages are called by their command lines, with an artifact store; what they would compute is
replaced by something short, for this is about what starts it.
"""

import functools
import typing

import pytest

from components import stages
from macrec.core import fingerprint, stage_command
from macrec.core.artifact import FolderOutput
from macrec.core.errors import UserError
from macrec.core.settings import fields
from macrec.core.stage import Stage

STAGES = [stage for stage in stages.STAGES if stage.reusable]
ALTERNATIVES = {
    bool: [True, False],
    int: [1, 2, 3, 4, 8, 16, 32, 64, 0],
    float: [0.5, 0.25, 0.75, 1.0, 2.0, 0.0],
    str: ["other", "1/2", "other {}", "1", "", "cpu", "cuda", "{a}.jpg", "latin-1", "2030-01-01"],
}
# Settings that are only valid beside others, with which they are flipped.
BESIDE = {"fsq_levels": {"tokenizer": "fsq", "align_weight": 0.0, "fsq_levels": (4, 4)}}


def others(parameter):
    """Values of the parameter's type that are not its default."""
    kind = parameter.kind
    if choices := parameter.choices:
        values = list(choices)
    elif typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        known = ALTERNATIVES.get(inner) or list(typing.get_args(inner))
        values = [tuple(known[: n + 1]) for n in range(4)]
        values += [(value,) for value in known]
        values += [v[:n] for v in [parameter.default] for n in range(1, len(v))]
    else:
        values = ALTERNATIVES[kind]
    return [v for v in values if v != parameter.default]


def valid(cls, parameter):
    """The first other value that the settings' own checks let pass."""
    for value in others(parameter):
        try:
            cls(**BESIDE.get(parameter.name, {}) | {parameter.name: value})
        except UserError:
            continue
        return value
    raise AssertionError(f"{parameter.name}: no other value is valid; add one to ALTERNATIVES")


@pytest.fixture
def calls(numbers, tmp_path, monkeypatch):
    """Calls a stage with its defaults and some flags; whether it computed."""
    code_version = functools.cache(fingerprint.code_version)
    monkeypatch.setattr(fingerprint, "code_version", code_version)
    monkeypatch.setattr("macrec.core.executor.code_version", code_version)
    given = numbers(1, 2)
    (tmp_path / "source").write_text("content")
    computed = []

    def call(stage, **flags):
        def run(_, job):
            computed.append(vars(job.settings))
            for name, output in vars(job.outputs).items():
                _fill(output, name)
            return {}

        argv = ["--out", str(tmp_path / "out"), "--store", str(tmp_path / "store")]
        named = {p.name: given for p in stage.artifacts}
        named |= {p.name: tmp_path / "source" for p in stage.sources} | flags
        named = {n: ",".join(map(str, v)) if isinstance(v, tuple) else v for n, v in named.items()}
        places = [
            p.name
            for p in [*stage.artifacts, *stage.sources, *stage_command.common_parameters(stage)]
        ]
        for name, value in named.items():
            flag = (
                f"--{name.replace('_', '-')}={value}" if name in places else f"--set={name}={value}"
            )
            argv.append(flag)
        computed.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Stage, "run", run)
            result = stage_command.run_request(stage, stage_command.parse_request(stage, argv))
        assert result.reused == (not computed)
        return bool(computed)

    return call


def _fill(output, name):
    if isinstance(output, FolderOutput):
        (output.path / "file").write_text(name)
    else:
        output.write_text(name)


@pytest.mark.case(10)
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_setting_that_counts_is_computed_again_and_no_other(calls, trials, stage):
    assert calls(stage) and not calls(stage)
    for parameter in fields(stage.settings):
        beside = BESIDE.get(parameter.name, {})
        assert not beside or calls(stage, **beside)
        flag = beside | {parameter.name: valid(stage.settings, parameter)}
        assert calls(stage, **flag), f"{flag}: the result of another setting was handed over"
    for parameter in fields(stage.execution):
        flag = {parameter.name: valid(stage.execution, parameter)}
        assert not calls(stage, **flag), f"{flag}: computed again, though only the speed changed"
    assert calls(stage, force="again") and calls(stage, cache_salt="again")
    assert not calls(stage)
    trials("settings that were computed again", len(fields(stage.settings)))
    trials("settings that were not", len(fields(stage.execution)))


def test_the_stage_that_is_left_out_stores_no_result():
    assert {stage.name for stage in stages.STAGES} - {stage.name for stage in STAGES} == {
        "check_run"
    }
    assert not stages.CHECK_RUN.reusable
