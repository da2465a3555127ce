"""The gpu image, which `make fresh` builds with PyPI's wheels: too large for every test run."""

import pyarrow.parquet as pq
import pytest

from pipelines.local import images
from tests.pipelines.conftest import SMOKE


@pytest.fixture(scope="session")
def built(build):
    return build("gpu")


def test_the_smoke_catalogue_runs_through_the_gpu_image_on_a_cpu(
    built, engine, sample, macrec, tmp_path
):
    assert "with CUDA" in built.out and built.out.startswith(images.reference("gpu"))
    out = tmp_path / "out"
    flags = ["--config", SMOKE, *sample.flags, "--set", "embed_image.max_bad_images=0.05"]
    ran = macrec("run", *flags, "--out", out, "--containers", images.reference("gpu"))
    assert ran.code == 0, ran.err[-4000:]
    lists = pq.read_table(out / "recommendations.parquet")
    assert len(lists) and f"{len(lists):,} rows" in ran.out and (out / "report.html").is_file()
    print(built.out, ran.out)
