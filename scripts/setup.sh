#!/usr/bin/env bash
# Installs every package that building, running and testing percept needs, from the distribution alone
# (Debian 12; other releases with the same package names work too). As root or with sudo; asks nothing;
# a second run changes nothing.
#
#   scripts/setup.sh          compiler, CMake, libraries, test framework
#   scripts/setup.sh --dev    also clang with its fuzzer, clang-format, clang-tidy and valgrind, which CI runs
set -euo pipefail

packages=(build-essential ca-certificates cmake git ninja-build pkg-config
    libopenblas-pthread-dev libhdf5-dev libyaml-dev libjansson-dev libpcre2-dev libutf8proc-dev zlib1g-dev
    libstb-dev libjpeg62-turbo-dev libwebp-dev libcmocka-dev jq)

case "${1:-}" in
'') ;;
--dev) packages+=(clang clang-format clang-tidy libclang-rt-14-dev valgrind) ;;
*)
    echo "setup.sh: unknown argument '$1'; the only one is --dev" >&2
    exit 2
    ;;
esac

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
        echo "setup.sh: run it as root, or install sudo" >&2
        exit 1
    }
    as_root=(sudo)
fi
command -v apt-get >/dev/null || {
    echo "setup.sh: this script knows apt-get only; install by hand: ${packages[*]}" >&2
    exit 1
}

missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
    echo "setup.sh: everything is installed"
    exit 0
fi
echo "setup.sh: installing ${missing[*]}"
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q update
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
    -o Dpkg::Options::=--force-confold install "${missing[@]}"
echo "setup.sh: done"
