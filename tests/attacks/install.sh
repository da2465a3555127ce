#!/usr/bin/env bash
# Installs the browser that opens the report in tests, on Debian as root. Nothing if it is there.
set -euo pipefail
if command -v chromium >/dev/null; then
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends chromium
