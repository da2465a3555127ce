#!/bin/sh
# Installs what stages need into /opt/venv while an image is built, and lists it (sbom.cdx.json).
#   sh docker/install.sh [INDEX]    INDEX: a package index for PyTorch alone
set -eu
site=/opt/venv/lib/python3*/site-packages

python3 -m venv /opt/venv
pip="python -m pip --no-cache-dir --disable-pip-version-check"
$pip install -c constraints.txt ${1:+--index-url "$1"} torch
python docker/requirements.py > /tmp/requirements.txt
$pip install -c constraints.txt -r /tmp/requirements.txt
$pip check
python docker/sbom.py > sbom.cdx.json

# Nothing is installed or compiled at run time: no pip, no headers, no packages' own tests.
$pip uninstall --yes pip
rm -r /tmp/requirements.txt $site/torch/include $site/torch/test
find $site -type d -name tests -prune -exec rm -r {} +
