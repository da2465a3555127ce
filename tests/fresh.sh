#!/usr/bin/env bash
# Follow the README where pip has PyPI and nothing else: an empty folder, no configuration of pip, no
# wheels of this machine, no cache. Then build the gpu image and run the smoke catalogue through it
# on the CPU. Needs root on Debian (podman), 25 GB of disk and some 10 minutes.
set -euo pipefail
source=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d -p /var/tmp macrec-fresh-XXXXXX)
trap 'rm -rf "$folder"' EXIT

for variable in $(compgen -e PIP_); do
  case $variable in
    PIP_CERT | PIP_PROXY | PIP_DEFAULT_TIMEOUT) ;;  # how PyPI is reached
    *) unset "$variable" ;;
  esac
done
export PIP_CONFIG_FILE=/dev/null PIP_NO_CACHE_DIR=1
unset TORCH_INDEX VIRTUAL_ENV PYTHONPATH MAKEFLAGS MAKELEVEL MAKEOVERRIDES

git -C "$source" ls-files -z | tar -C "$source" --null --files-from=- --create --file=- | tar -C "$folder" -x
cd "$folder"
make setup
.venv/bin/macrec --help >/dev/null
bash tests/containers/install.sh
CI=true .venv/bin/pytest -s tests/containers/gpu_image.py
echo "fresh: set-up, macrec --help and the gpu image work with PyPI as the only source."
