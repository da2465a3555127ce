#!/usr/bin/env bash
# Installs what the tests with containers need, on Debian as root. Nothing if it is there.
set -euo pipefail
packages=(podman runc mmdebstrap iptables netavark aardvark-dns uidmap)
installed=$(dpkg-query --show --showformat='${db:Status-Abbrev}\n' "${packages[@]}" 2>/dev/null \
  | grep -c '^ii' || true)
if [ "$installed" -eq "${#packages[@]}" ]; then
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${packages[@]}"
