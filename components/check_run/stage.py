"""Checks the run form, resolves the earlier run, and takes digests of all external data.

This is the first task of a run and it is never cached. It needs no GPU and takes seconds, so a
wrong setting ends the run before anything expensive starts. KFP's cache compares parameter values,
not contents. The digests are parameters of the stages that read the data, so the cache hits only if
the data is the same. Each stage also receives its own settings alone, so a change of one stage's
settings leaves the cached results of the others valid.
"""

import dataclasses
from collections.abc import Mapping

from components.check_run.earlier_run import find_earlier_artifacts
from components.check_run.spec import PREVIOUS, SOURCES, Execution, Inputs, Outputs, Settings
from components.run_form import FORMS, check_form
from macrec.core.artifact import ParameterOutput, StructOutput
from macrec.core.errors import UserError
from macrec.core.progress import log
from macrec.core.stage import Job, Metrics
from macrec.core.stage_command import open_source


def run(job: Job[Settings, Inputs, Outputs, Execution]) -> Metrics:
    """Write the settings of every stage, and the digest of all external data.

    Raises:
        UserError: a setting is unknown or wrong, settings contradict each other, data are missing,
            or the earlier run has not all artifacts. One message lists all problems of one kind.
    """
    form = FORMS[job.settings.pipeline]
    values = dataclasses.asdict(job.settings)
    settings = check_form({n: v for n, v in values.items() if n in form.fields}, form)
    log.info("check_run: all settings are valid (preset %s)", job.settings.preset)
    addresses = {name: str(values[name]) for name in SOURCES}
    earlier: dict[str, str] = {}
    if job.settings.run_previous:
        earlier = find_earlier_artifacts(job.settings.run_previous)
    for name in PREVIOUS:
        addresses[name] = earlier.get(name.removeprefix("previous_"), "")
        _output(job, name).write_text(addresses[name])
    for name, digest in _digests(addresses).items():
        _output(job, f"{name}_digest").write_text(digest)
    for field in dataclasses.fields(job.outputs):
        output = getattr(job.outputs, field.name)
        if isinstance(output, StructOutput):
            output.write_json(settings.get(field.name.removesuffix("_settings"), {}))
    return {}


def _output(job: Job[Settings, Inputs, Outputs, Execution], name: str) -> ParameterOutput:
    return getattr(job.outputs, name)


def _digests(addresses: Mapping[str, str]) -> dict[str, str]:
    """Return the digest of the data at every address; empty for an empty address."""
    digests, problems = dict[str, str](), list[str]()
    for name, uri in addresses.items():
        try:
            found = open_source(uri)
            digests[name] = found.digest if found else ""
        except UserError as error:
            problems.append(f"{name}={error}")
    if problems:
        raise UserError("\n  ".join(problems))
    return digests
