#!/usr/bin/env bash
# Install, remove, back up and list services, whether dcm-processor runs or not: `bash service.sh --help`.
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$checkout/sh/messages.sh"
source "$checkout/sh/settings.sh"
source "$checkout/sh/packages.sh"
source "$checkout/sh/python.sh"
source "$checkout/sh/containers.sh"

if in_containers; then
  want_docker
  folders_of "$@"
  in_container service "$@"
  exit
fi

want_python server
install_missing
prepare_environment server

exec "$venv/bin/dcm-processor" service "$@"
