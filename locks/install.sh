#!/bin/sh
# Installs PyTorch and a lock: sh locks/install.sh PYTHON LOCK [INDEX]
#   INDEX: the package index for PyTorch alone
# What the locks list and nothing else, each file by its hash.
set -eu
pip="$1 -m pip --quiet --disable-pip-version-check"
locked="install --require-hashes --no-deps"
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT

# Fetched first, then installed by its hash: told the hashes, pip passes over a wheel on a page that
# states none.
version=$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' locks/torch.txt)
$pip download --no-deps --dest "$folder" ${3:+--index-url "$3"} "$version"
$pip $locked --no-index --find-links "$folder" -r locks/torch.txt
$pip $locked -r "locks/$2"
if $pip check | grep -q '^torch .* requires'; then
  $pip $locked -r locks/cuda.txt
fi
