#!/usr/bin/env bash
# The rules of the house that a machine can hold. usage: lint.sh RULE [ARGUMENT...], from anywhere.
# Each rule prints the lines that break it and what to do; exit 1 when there are any.
set -u
cd "$(dirname "$0")/../.." || exit 2
broken=0
refuse() { # PATTERN REASON FILE...
    local pattern=$1 reason=$2
    shift 2
    [ $# -gt 0 ] || { echo "lint: no files to look at for: $reason"; exit 2; }
    if grep -nE "$pattern" "$@"; then
        echo "  ^ $reason"
        broken=1
    fi
}
files() { git ls-files --cached --others --exclude-standard -- "$@"; }

code=$(files '*.c' '*.h' '*.cu')
spine=$(files 'src/*.[ch]' | grep -v '^src/\(main.c\|cli/\)')

case ${1:-} in
directions)
    # a room stands above all that it uses; nothing points back up
    refuse '#include "(dist|kernels)/' 'src/ must not know dist/ or kernels/' $spine
    refuse '#include "src/cli/' 'only the wiring knows the commands' $spine
    refuse '#include <(mpi|nccl|cuda|cudnn|dnnl|oneapi|omp)' 'use src/backend.h or src/collective.h' $spine
    refuse '#include <(nccl|cuda|cudnn|cublas|dnnl|oneapi)' 'a device library belongs into kernels/' $(files 'dist/*.[ch]' 'dist/*.cu')
    refuse '#include <(nccl|cuda|cudnn|cublas)' 'what a GPU vendor calls goes through kernels/cuda/vendor.h' \
        $(files 'kernels/*.[ch]' 'kernels/*.cu' | grep -v '^kernels/cuda/real/')
    refuse '#include <mpi' 'messages belong into dist/' $(files 'kernels/*.[ch]')
    refuse '#include "(dist|src/(train|model|data|checkpoint|store))/' 'kernels/ uses src/core, src/state and the table only' $(files 'kernels/*.[ch]')
    refuse '#include "(kernels|src/(train|model|data|checkpoint|store))/' 'dist/ uses src/core, src/state and the table only' \
        $(files 'dist/*.[ch]' | grep -v '^dist/cuda/')
    # the one exception: sums of device memory are made where that memory is
    refuse '#include "(kernels/[^c]|src/(train|model|data|checkpoint))' 'dist/cuda uses kernels/cuda and the tables only' \
        $(files 'dist/cuda/*.h' 'src/collective.h')
    refuse '#include "src/(state|model|data|checkpoint|store|train|backend|collective)' 'core stands below every other room' \
        $(files 'src/core/*.[ch]')
    refuse '#include "src/(state|model|data|checkpoint|train|backend|collective)' 'a store moves bytes and knows no checkpoint' \
        $(files 'src/store/*.[ch]')
    refuse '#include <(curl|expat|openssl)' 'what goes over the network goes through src/store' \
        $(files '*.[ch]' | grep -v '^src/store/')
    refuse '#include "src/store/' 'objects are for checkpoints: src/checkpoint/object_store.h' \
        $(files 'src/state/*.[ch]' 'src/data/*.[ch]' 'src/model/*.[ch]' 'src/train/*.[ch]')
    refuse '#include "src/(model|data|checkpoint|train)/' 'the registry knows nobody above it' $(files 'src/state/*.[ch]')
    refuse '#include "src/(train|model)/' 'checkpoints hold any state' $(files 'src/checkpoint/*.[ch]')
    refuse '#include "src/(train|checkpoint)/' 'a model knows no training and no files' $(files 'src/model/*.[ch]')
    refuse '#include "\.' 'includes are written from the root' $code
    ;;
features)
    refuse '#\s*(if|ifdef|ifndef|elif).*(CUDA|NCCL|CUDNN|DNNL|MPI|HDF5|REKINDLE)' 'choose the file in CMake instead' \
        $(files 'src/*.[ch]' 'dist/*.[ch]' 'kernels/*.[ch]')
    ;;
libm)
    # what the built libraries ask of libm; square roots and rounding are exact everywhere
    shift
    [ $# -gt 0 ] || { echo "usage: lint.sh libm LIBRARY..."; exit 2; }
    for library in "$@"; do
        nm -u "$library" | grep -E ' U (exp|exp2|expm1|log|log2|log10|log1p|pow|sin|cos|tan|tanh|erf|cbrt|hypot|fma)f?$' && {
            echo "  ^ $library: its bits change with processor and version: use src/core/elementary.h"
            broken=1
        }
    done
    ;;
format)
    command -v clang-format >/dev/null || { echo "lint: clang-format is missing"; exit 2; }
    for file in $(files '*.c' '*.h'); do
        clang-format --dry-run --Werror "$file" >/dev/null 2>&1 || {
            echo "$file"
            broken=1
        }
    done
    [ $broken = 0 ] || echo '  ^ run: clang-format -i FILE'
    ;;
text)
    for file in $code; do
        head -n 1 "$file" | grep -q '^/\*' || {
            echo "$file"
            broken=1
        }
    done
    [ $broken = 0 ] || echo '  ^ a file opens with a sentence: what it is for'
    refuse '\b(TODO|FIXME|XXX|HACK)\b' 'finish it, or file an issue' $code
    refuse '(/home/|/root/)[a-z]' 'no path of one machine' $(files | grep -v '^tests/lint/')
    ;;
*)
    echo "usage: lint.sh directions|features|libm LIBRARY...|format|text"
    exit 2
    ;;
esac
exit $broken
