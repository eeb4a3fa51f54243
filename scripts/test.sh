#!/usr/bin/env bash
# Sets up, builds and runs every test. Arguments go to ctest: scripts/test.sh -R parity
# PERCEPT_ISA=ref|avx2|avx512 makes all of it run on that instruction set's kernels.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
cmake --preset release ${PERCEPT_CMAKE_ARGS:-}
cmake --build --preset release
ctest --preset release -j "$(nproc)" "$@"
