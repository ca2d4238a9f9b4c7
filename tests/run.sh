#!/usr/bin/env bash
# Installs what is missing, builds and runs the whole test suite. Exit 0 only when everything passed.
#   tests/run.sh                 everything
#   tests/run.sh -L unit         arguments go to ctest
#   tests/run.sh --sanitize      modules, operations and ranks once more, with address and undefined-behaviour
#                                sanitizers; further arguments go to ctest, too
set -euo pipefail
cd "$(dirname "$0")/.."

preset=release
if [[ "${1:-}" == --sanitize ]]; then
    preset=sanitize
    shift
    set -- -j "$(nproc)" -L '^(unit|ops|mpi)$' "$@"
fi

step() { printf '\n== %s\n' "$1"; }

step "packages"
launch/install.sh launch/packages.txt tests/packages.txt
step "build ($preset)"
cmake --preset "$preset" >/dev/null
cmake --build "build/$preset"
step "tests"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
if ! ctest --test-dir "build/$preset" --output-on-failure "$@"; then
    printf '\nsome tests FAILED: see above\n'
    exit 1
fi
if [[ $# = 0 ]]; then
    step "lines of the GPU's code that ran under the double"
    python3 tests/gpu_double/coverage.py "build/$preset"
fi
printf '\nall tests passed\n'
