#!/usr/bin/env bash
# Install, remove, back up and list services, whether dcm-processor runs or not: `bash service.sh --help`.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/cli.sh" service "$@"
