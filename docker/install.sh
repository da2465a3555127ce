#!/bin/sh
# Install what stages need into $VENV while an image is built, and list it (sbom.cdx.json).
#   sh docker/install.sh [cuda]     cuda: fail unless PyTorch is built for CUDA
# TORCH_INDEX: the index of PyTorch, as locks/install.py describes.
set -eu
VENV=${VENV:-/opt/venv}
python=$VENV/bin/python
site=$VENV/lib/python3*/site-packages

python3 -m venv "$VENV"
PIP_NO_CACHE_DIR=1 $python locks/install.py stages.txt
$python docker/sbom.py > sbom.cdx.json

# Nothing is installed or compiled at run time: no pip, no headers, no packages' own tests.
# PyPI's wheel of PyTorch has no torch/test.
$python -m pip uninstall --yes pip
rm -rf $site/torch/include $site/torch/test
find $site -type d -name tests -prune -exec rm -r {} +
$python locks/check.py ${1:+--cuda}
