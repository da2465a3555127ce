"""`macrec rerun`: reruns a run, or one of its stages, locally or on a cluster."""

import argparse
from pathlib import Path

from macrec.core.errors import check
from pipelines.cluster import client, rerun_backend
from pipelines.local import containers, run_record
from pipelines.local.rerun_choice import MODES, Given, choice
from pipelines.local.rerun_local import rerun_local


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for the run and for the stages to compute again."""
    parser.add_argument("run", metavar="RUN", help="output folder of a local run, or a KFP run id")
    containers.add_flags(parser)
    group = parser.add_mutually_exclusive_group()
    for mode, text in MODES.items():
        group.add_argument(f"--{mode}", dest=f"mode_{mode}", metavar="STAGE", help=text)
    parser.add_argument(
        "--clone",
        action="store_true",
        help="on a cluster: a new run where a retry would do, with a new look at the data",
    )


def rerun(options: argparse.Namespace, given: Given) -> None:
    """Run an earlier run again, in its output folder or on the cluster."""
    if run_record.is_output_folder(options.run):
        rerun_local(Path(options.run), choice(options), given, containers.given(options))
    else:
        check(options.containers is None, "--containers: for an output folder of this machine.")
        backend = client.connected(options, options.run)
        rerun_backend.rerun_backend(backend, options, choice(options), given)
