#!/usr/bin/env bash
# Makes .venv with every locked package and Perdure itself in it; does nothing when that is so already.
#
# It needs Python 3.11 or newer and a network. `uv` is used where it is found, and fetched into .venv/.uv where it is
# not. Set PERDURE_PYTHON to choose the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=.venv
STAMP=$VENV/.perdure-bootstrap

fail() {
    printf 'bootstrap: %s\n' "$1" >&2
    exit 1
}

digest() {
    if command -v sha256sum >/dev/null 2>&1; then sha256sum; else shasum -a 256; fi
}

# The stamp names what the environment was made from and where: a moved folder has broken scripts in its .venv.
wanted=$({ pwd -P; cat requirements.lock pyproject.toml scripts/bootstrap.sh; } | digest)
if [ -x "$VENV/bin/perdure" ] && [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$wanted" ]; then
    exit 0
fi

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

python=""
for candidate in ${PERDURE_PYTHON:+"$PERDURE_PYTHON"} python3 python3.13 python3.12 python3.11 python3.14 python; do
    if new_enough "$candidate"; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "no Python 3.11 or newer was found. Install one, or name it: make PERDURE_PYTHON=/path/to/python3.11"

uv=""
if command -v uv >/dev/null 2>&1 && uv --version >/dev/null 2>&1; then
    uv=uv
fi

count=$(grep -cE '^[a-z0-9._-]+==' requirements.lock)
echo "bootstrap: installing up to $count locked packages into $VENV (about 80 MB to download, once)" >&2

if ! new_enough "$VENV/bin/python"; then
    # --clear empties a broken environment in place.
    if [ -n "$uv" ]; then
        "$uv" venv --quiet --clear --python "$python" "$VENV"
    else
        "$python" -m venv --clear "$VENV" ||
            fail "$python cannot make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv"
    fi
fi

if [ -z "$uv" ] && "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    if "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --target "$VENV/.uv" --upgrade uv; then
        uv=$VENV/.uv/bin/uv
    fi
fi

# Every package is checked against the hash in the lock file. --no-deps, because the lock file is complete.
if [ -n "$uv" ]; then
    "$uv" pip install --quiet --python "$VENV/bin/python" --no-deps --require-hashes -r requirements.lock
    "$uv" pip install --quiet --python "$VENV/bin/python" --no-deps --editable .
else
    echo "bootstrap: uv could not be had for this machine; pip does the same, more slowly" >&2
    "$VENV/bin/python" -m pip install --quiet --no-deps --require-hashes -r requirements.lock
    "$VENV/bin/python" -m pip install --quiet --no-deps --editable .
fi

printf '%s\n' "$wanted" >"$STAMP"
