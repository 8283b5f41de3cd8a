#!/bin/sh
# pip install, from the wheels in /build/wheels alone if there are any: install.sh [--python PYTHON] ARGUMENTS
set -eu

python=/opt/pip/bin/python
if [ "$1" = --python ]; then
    python=$2
    shift 2
fi
if [ -n "$(find /build/wheels -name '*.whl' -print -quit)" ]; then
    set -- --no-index --find-links /build/wheels "$@"
fi
# --no-compile: slim.py compiles what it leaves.
exec /opt/pip/bin/python -m pip --isolated --python "$python" --disable-pip-version-check --no-cache-dir \
    install --no-compile --no-warn-script-location --root-user-action ignore "$@"
