#!/usr/bin/env bash
# Makes requirements/*.txt from pyproject.toml and requirements/*.in: one resolution for every
# supported Python, all pins with hashes. Usage: packaging/lock.sh [--upgrade]
set -euo pipefail
cd "$(dirname "$0")/.."

uv_version=0.13.9
python=${PYTHON:-python3}
environment=build/lock-venv
if ! "$environment/bin/uv" --version 2>/dev/null | grep -qF "uv $uv_version"; then
    "$python" -m venv --clear "$environment"
    "$environment/bin/python" -m pip install -qq --disable-pip-version-check "uv==$uv_version"
fi

export UV_CUSTOM_COMPILE_COMMAND="make lock"
compile() {
    "$environment/bin/uv" pip compile --quiet --universal --python-version 3.10 \
        --no-emit-index-url --no-emit-find-links --no-annotate "$@"
}

# dev.txt is the whole; each other file is a part of it, so that no two can disagree.
compile "$@" --generate-hashes --extra agent --extra bench --extra demo --extra dev \
    --extra export --extra kubernetes --extra otlp --extra postgresql --extra profiles --extra sglang \
    --output-file requirements/dev.txt pyproject.toml
compile --generate-hashes --extra agent --extra kubernetes --extra otlp --extra postgresql \
    --extra profiles --extra sglang --constraint requirements/dev.txt \
    --output-file requirements/agent.txt pyproject.toml
compile --generate-hashes --constraint requirements/dev.txt \
    --output-file requirements/build.txt requirements/build.in
compile "$@" --constraint requirements/dev.txt \
    --output-file requirements/torch-constraints.txt requirements/torch.in
# Only what those and PyTorch leave open: it is installed beside them.
compile "$@" --generate-hashes --excludes requirements/dev.txt \
    --excludes requirements/torch-constraints.txt --excludes requirements/torch.txt \
    --output-file requirements/trainers.txt requirements/trainers.in
