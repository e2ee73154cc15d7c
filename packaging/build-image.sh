#!/usr/bin/env bash
# Builds the image with docker, podman or buildah: the first that is there and answers.
# From the environment: IMAGE (its name), BASE (another base image with Python 3.10 or newer),
# IMAGE_BUILDER (to choose the program), IMAGE_FLAGS (more flags for it).
set -euo pipefail
cd "$(dirname "$0")/.."
image=${IMAGE:-apportion:$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)}

answers() {
    command -v "$1" >/dev/null 2>&1 && "$1" info >/dev/null 2>&1
}

builder=${IMAGE_BUILDER:-}
for candidate in docker podman buildah; do
    if [ -z "$builder" ] && answers "$candidate"; then builder=$candidate; fi
done
if [ -z "$builder" ]; then
    echo "image: none of docker, podman and buildah is here and answers 'info'; install one of them" \
        "(Debian: apt-get install buildah), or start docker's engine" >&2
    exit 1
fi

arguments=(--file Dockerfile --tag "$image")
# HEALTHCHECK is docker's format; OCI's has no place for it and would drop it with a warning.
if [ "$builder" != docker ]; then arguments+=(--format docker); fi
if [ -n "${BASE:-}" ]; then arguments+=(--build-arg "BASE=$BASE"); fi
read -r -a flags <<<"${IMAGE_FLAGS:-}"
echo "image: building $image with $builder"
"$builder" build "${flags[@]}" "${arguments[@]}" .
