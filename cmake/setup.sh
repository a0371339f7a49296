#!/bin/sh
# SPDX-License-Identifier: MIT
# sh cmake/setup.sh [--full]: on Debian, installs what building, testing and the examples need and the
# machine lacks; --full adds clang 16 and the sanitizers. Where it may not install, it says what is missing
# and leaves the rest to CMake.
set -u

missing=
command_of() { command -v "$2" >/dev/null 2>&1 || missing="$missing $1"; }  # package, command
file_of() {                                                                # package, files of which one is enough
  package=$1
  shift
  for file in "$@"; do
    test -e "$file" && return
  done
  missing="$missing $package"
}

command_of g++ g++
command_of cmake cmake
command_of ninja-build ninja
command_of python3 python3
file_of libeigen3-dev /usr/include/eigen3/Eigen/Core /usr/local/include/eigen3/Eigen/Core
file_of nlohmann-json3-dev /usr/include/nlohmann/json.hpp /usr/local/include/nlohmann/json.hpp
file_of libboost-test-dev /usr/include/boost/test/unit_test.hpp /usr/local/include/boost/test/unit_test.hpp
file_of libcli11-dev /usr/include/CLI/CLI.hpp /usr/local/include/CLI/CLI.hpp
file_of libfmt-dev /usr/include/fmt/core.h /usr/local/include/fmt/core.h
file_of libbenchmark-dev /usr/include/benchmark/benchmark.h /usr/local/include/benchmark/benchmark.h
file_of libopenblas-dev /usr/lib/*/libopenblas.so /usr/lib/libopenblas.so /usr/lib64/libopenblas.so /usr/local/lib/libopenblas.so
if [ "${1-}" = --full ]; then
  command_of clang-16 clang++-16
  file_of libomp-16-dev /usr/lib/llvm-16/lib/libarcher.so
  file_of libclang-rt-16-dev /usr/lib/llvm-16/lib/clang/16/lib/linux/libclang_rt.tsan-*.a
  file_of llvm-16 /usr/lib/llvm-16/bin/llvm-symbolizer  # readable stacks in sanitizer reports
fi

[ -z "$missing" ] && exit 0
as_root=
if [ "$(id -u)" -ne 0 ]; then
  as_root=sudo
fi
if ! command -v apt-get >/dev/null 2>&1 || { [ -n "$as_root" ] && ! command -v sudo >/dev/null 2>&1; }; then
  echo "setup: missing, and not installed here (no apt-get, or neither root nor sudo):$missing" >&2
  exit 0
fi
echo "setup: installing$missing"
apt() { $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"; }
apt update && apt install -y --no-install-recommends $missing
