#!/bin/sh
# Installs what stages need into /opt/venv while an image is built, and lists it (sbom.cdx.json).
#   sh docker/install.sh [INDEX]    INDEX: a package index for PyTorch alone
set -eu
site=/opt/venv/lib/python3*/site-packages

python3 -m venv /opt/venv
PIP_NO_CACHE_DIR=1 sh locks/install.sh python stages.txt "${1:-}"
python -m pip check
python docker/sbom.py > sbom.cdx.json

# Nothing is installed or compiled at run time: no pip, no headers, no packages' own tests.
python -m pip uninstall --yes pip
rm -r $site/torch/include $site/torch/test
find $site -type d -name tests -prune -exec rm -r {} +
