#!/usr/bin/env bash
# Looks for the servers that tests need beside the embedded Valkey. In CI a missing one is installed, or is a failure.
set -euo pipefail

if command -v nginx >/dev/null 2>&1 || [ -x /usr/sbin/nginx ]; then
    exit 0
fi
if [ "${CI:-}" != "true" ]; then
    echo "servers: nginx is not installed; the test behind a 30 s proxy is skipped (apt-get install nginx-light)" >&2
    exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nginx-light
    exit 0
fi
echo "servers: CI=true needs nginx and it cannot be installed from here; add it to the image" >&2
exit 1
