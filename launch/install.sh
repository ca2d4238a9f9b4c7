#!/usr/bin/env bash
# Installs the Debian packages that are missing from the given lists; asks for nothing when all are there.
#   launch/install.sh LIST...        as root, or with sudo
set -euo pipefail

missing=()
for package in $(grep -hv '^#' "$@"); do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

echo "installing: ${missing[*]}"
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    "${missing[@]}" >/dev/null
