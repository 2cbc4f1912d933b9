#!/usr/bin/env bash
# Writes requirements.lock anew from pyproject.toml: exact versions and hashes, and no name of any registry.
set -euo pipefail
cd "$(dirname "$0")/.."

uv lock "$@"
uv export --quiet --no-header --format requirements-txt --no-emit-project --no-emit-local --all-groups |
    grep -vE '^(-i|--index-url|--extra-index-url|--find-links|--trusted-host)' >requirements.lock
if grep -nE '[a-z]+://' requirements.lock; then
    echo "lock: the lines above name a host; a dependency must come by name and version" >&2
    exit 1
fi
