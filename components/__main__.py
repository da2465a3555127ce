"""Runs one stage: python -m components NAME, with flags or with KFP's executor input."""

import sys

from components.stages import stage_named
from macrec.core import stage_command

if __name__ == "__main__":
    stage_command.main(stage_named(sys.argv[1]), sys.argv[2:])
