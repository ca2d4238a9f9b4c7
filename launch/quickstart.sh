#!/usr/bin/env bash
# Rekindle in three minutes: installs what is missing, builds, trains a convolutional net on Fashion-MNIST,
# kills a rank in the middle of an epoch, goes on with another number of ranks, and shows that the result
# is bit for bit that of a run that nobody disturbed.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$1"; }
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
rekindle=build/release/rekindle
runs=runs/quickstart
train() { # RANKS RUN_DIR
    mpirun -q -n "$1" --oversubscribe "$rekindle" train launch/fashion.yaml \
        --set train.epochs=2 --set checkpoint.every_steps=100 --set "run.dir=$2" --set log.every_steps=200
}
digest() { "$rekindle" checkpoints show "$1" --json | sed -n 's/.*"state_digest": *"\([0-9a-f]*\)".*/\1/p'; }

step "packages"
launch/install.sh launch/packages.txt
step "build"
cmake --preset release >/dev/null
cmake --build build/release --target rekindle

rm -rf "$runs"
step "1. an undisturbed run on 2 ranks"
train 2 "$runs/undisturbed"

step "2. the same run; rank 1 gets SIGKILL in step 850, in the middle of its second epoch"
code=0
REKINDLE_FAULT=rank:1,step:850,at:reduce train 2 "$runs/killed" || code=$?
if [ "$code" -eq 0 ]; then
    echo "quickstart: FAILED: the kill did not end the launch"
    exit 1
fi
echo "the launch ended with exit code $code"

step "3. the same command again, now on 3 ranks"
train 3 "$runs/killed"

step "4. the two results"
undisturbed=$(digest "$runs/undisturbed")
killed=$(digest "$runs/killed")
echo "undisturbed, 2 ranks:             state_digest $undisturbed"
echo "killed, then finished on 3 ranks: state_digest $killed"
if [ -n "$undisturbed" ] && [ "$undisturbed" = "$killed" ]; then
    echo "identical: every bit of the state is the same"
else
    echo "quickstart: FAILED: the results differ"
    exit 1
fi
