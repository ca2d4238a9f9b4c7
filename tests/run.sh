#!/usr/bin/env bash
# Installs what is missing, builds and runs the whole test suite. Exit 0 only when everything passed.
#   tests/run.sh                 everything
#   tests/run.sh -L unit         arguments go to ctest
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$1"; }

step "packages"
launch/install.sh launch/packages.txt tests/packages.txt
step "build (release)"
cmake --preset release >/dev/null
cmake --build build/release
step "tests"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
if ctest --test-dir build/release --output-on-failure "$@"; then
    printf '\nall tests passed\n'
else
    printf '\nsome tests FAILED: see above\n'
    exit 1
fi
