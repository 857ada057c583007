#!/usr/bin/env bash
# The command line, wherever dcm-processor runs: `bash cli.sh study list`, `bash cli.sh send FOLDER`, `bash cli.sh --help`.
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$checkout/sh/messages.sh"
source "$checkout/sh/settings.sh"
source "$checkout/sh/packages.sh"
source "$checkout/sh/python.sh"
source "$checkout/sh/containers.sh"

if in_containers; then
  want_docker
  mounts_of "$@"
  in_container "$@"
  exit
fi

want_python server
install_missing
prepare_environment server

exec "$venv/bin/dcm-processor" "$@"
