"""The sample and the `macrec` command of the tests of pipelines."""

from tests.pipelines.conftest import macrec, sample

__all__ = ["macrec", "sample"]
