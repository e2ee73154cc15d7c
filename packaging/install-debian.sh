#!/usr/bin/env bash
# Brings the programs of packaging/debian-packages.txt that are not on PATH. Silent when nothing is
# missing. What it may not or cannot bring it names, with the reason, and still exits 0: the tests
# that need it are then skipped by name (failed, where CI=true).
# Usage: packaging/install-debian.sh [LIST [FOLDER]]
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
list=${1:-$repository/packaging/debian-packages.txt}
folder=${2:-$repository/build/debian}

log=$(mktemp)
trap 'rm -f "$log"' EXIT

has() {
    # Debian keeps the programs of a PostgreSQL server in a folder for each version.
    local path="$folder/usr/bin:$folder/usr/sbin:$PATH" bin
    for bin in {"$folder/postgresql",}/usr/lib/postgresql/*/bin; do path+=":$bin"; done
    PATH="$path" command -v "$1" >/dev/null 2>&1
}

skip() { # package, program, needed by, reason
    echo "packages: $2 (Debian's $1) is missing, for $3; not installed: $4" >&2
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# apt-get with lists of its own, for a user who may not refresh the machine's.
private_apt_get() {
    mkdir -p "$folder/apt/lists/partial" "$folder/apt/cache/archives/partial"
    apt-get -o Dir::State::lists="$folder/apt/lists" -o Dir::Cache="$folder/apt/cache" \
        -o APT::Sandbox::User="$(id -un)" -qq "$@"
}

unpack() { # package
    local downloads
    mkdir -p "$folder"
    downloads=$(mktemp -d "$folder/download.XXXXXX")
    if ! (cd "$downloads" && apt-get -o APT::Sandbox::User="$(id -un)" -qq download "$1") >"$log" 2>&1; then
        if ! { private_apt_get update && (cd "$downloads" && private_apt_get download "$1"); } >"$log" 2>&1; then
            rm -rf "$downloads"
            return 1
        fi
    fi
    for archive in "$downloads"/*.deb; do
        dpkg-deb --extract "$archive" "$folder"
    done
    rm -rf "$downloads"
}

unpack_all() { # package
    local downloads
    mkdir -p "$folder"
    downloads=$(mktemp -d "$folder/download.XXXXXX")
    mkdir "$downloads/partial"
    gather() { # apt-get
        "$1" -o Dir::Cache="$folder/apt/cache" -o Dir::Cache::archives="$downloads" \
            -o Debug::NoLocking=true -o APT::Sandbox::User="$(id -un)" -qq \
            --download-only --yes --no-install-recommends install "$2"
    }
    mkdir -p "$folder/apt/cache"
    if ! gather apt-get "$1" >"$log" 2>&1; then
        if ! { private_apt_get update && gather private_apt_get "$1"; } >"$log" 2>&1; then
            rm -rf "$downloads"
            return 1
        fi
    fi
    for archive in "$downloads"/*.deb; do
        dpkg-deb --extract "$archive" "$folder/$1"
    done
    rm -rf "$downloads"
}

install() { # package
    # RUNLEVEL=1 asks Debian's scripts not to start the package's service.
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install --yes --no-install-recommends "$1" >"$log" 2>&1 && return
    as_root apt-get -qq update >"$log" 2>&1 || return
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install --yes --no-install-recommends "$1" >"$log" 2>&1
}

while read -r package program how needed_by; do
    case $package in '' | '#'*) continue ;; esac
    if has "$program"; then continue; fi
    if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
        skip "$package" "$program" "$needed_by" "this is no Debian (no apt-get); install it yourself"
        continue
    fi
    case $how in
    unpack) echo "packages: unpacking Debian's $package under $folder, for $needed_by" ;;
    unpack_all)
        echo "packages: unpacking Debian's $package and what it needs under $folder/$package," \
            "for $needed_by"
        ;;
    install)
        if [ "$(id -u)" != 0 ] && ! sudo -n true 2>/dev/null; then
            skip "$package" "$program" "$needed_by" "neither root nor sudo without a password"
            continue
        fi
        echo "packages: installing Debian's $package, for $needed_by"
        ;;
    *)
        echo "$list: $package: '$how' is neither unpack, unpack_all nor install" >&2
        exit 2
        ;;
    esac
    if ! "$how" "$package" </dev/null; then
        skip "$package" "$program" "$needed_by" "apt-get failed: $(tail -n 1 "$log")"
    elif ! has "$program"; then
        skip "$package" "$program" "$needed_by" "the package brought no program of this name"
    fi
done <"$list"
