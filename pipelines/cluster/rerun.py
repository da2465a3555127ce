"""`macrec rerun`: reruns a run, or one of its stages, locally or on a cluster."""

from pathlib import Path

from macrec.core.errors import check
from pipelines.cluster import client, rerun_backend
from pipelines.cluster.rerun_backend import ClusterRerun
from pipelines.local import containers, run_record
from pipelines.local.rerun_choice import Choice, Given
from pipelines.local.rerun_local import rerun_local


def rerun(
    run: str,
    choice: Choice,
    given: Given,
    cluster: ClusterRerun,
    in_containers: containers.Options | None = None,
) -> None:
    """Run an earlier run again, in its output folder or on the cluster.

    Args:
        run: output folder of a local run, or a KFP run id.
        choice: the stages to compute again.
        given: function that returns the settings of the rerun.
        cluster: options for a run on a cluster.
        in_containers: settings of the containers of a local run; None runs the stages in processes.
    """
    if run_record.is_output_folder(run):
        rerun_local(Path(run), choice, given, in_containers)
        return
    check(in_containers is None, "--containers applies only to an output folder on this machine.")
    backend = client.connect(cluster.connection, run)
    rerun_backend.rerun_backend(backend, run, choice, given, cluster)
