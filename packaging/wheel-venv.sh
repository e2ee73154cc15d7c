#!/usr/bin/env bash
# Makes a virtual environment that holds the built wheel and sees the locked requirements of
# another one, but not its editable install: a .pth file inside a folder that a .pth file names is
# not read. So the tests see the wheel's files and nothing of the tree.
# Usage: packaging/wheel-venv.sh LOCKED_VENV WHEEL WHEEL_VENV
set -euo pipefail
locked=$1 wheel=$2 target=$3

"$locked/bin/python" -m venv --clear --without-pip "$target"
site() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
site "$locked" >"$(site "$target")/locked-requirements.pth"
"$locked/bin/python" -m pip --disable-pip-version-check --python "$target/bin/python" install \
    -qq --ignore-installed --no-deps --no-index "$wheel"
