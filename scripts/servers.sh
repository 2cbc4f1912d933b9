#!/usr/bin/env bash
# Looks for the servers that tests need beside the embedded Valkey. In CI a missing one is installed, or is a failure.
set -euo pipefail
PATH=$PATH:/usr/sbin

missing=()
command -v nginx >/dev/null 2>&1 || missing+=(nginx-light)
command -v redis-server >/dev/null 2>&1 || missing+=(redis-server)
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "${CI:-}" != "true" ]; then
    echo "servers: not installed: ${missing[*]}; their tests are skipped (apt-get install ${missing[*]})" >&2
    exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    # In run level 1 a package does not start its service.
    apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
    exit 0
fi
echo "servers: CI=true needs ${missing[*]}, which cannot be installed from here; add them to the image" >&2
exit 1
