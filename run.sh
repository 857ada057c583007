#!/usr/bin/env bash
# Start dcm-processor, or stop it; `bash run.sh --help` says how.
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$checkout/sh/messages.sh"
source "$checkout/sh/settings.sh"
source "$checkout/sh/packages.sh"
source "$checkout/sh/python.sh"
source "$checkout/sh/arguments.sh"

# What is wanted? Nothing is touched yet.
parse_arguments "$@"
if [[ $mode == containers && $action == up ]]; then
  fail "running in containers is not part of this version; \`bash run.sh --local\` runs everything as processes of this machine"
fi
if [[ $action == down && ! -x $venv/bin/dcm-processor ]]; then
  say "nothing runs: nothing was ever started from this folder"
  exit 0
fi

# From here on this machine changes: packages, .venv, BASEDIR.
if [[ $action == up ]]; then
  want_python server
  want_orthanc
  install_missing
  prepare_environment server
fi

exec "$venv/bin/dcm-processor" stack "$action" ${scale:+--scale "$scale"} ${demo:+--demo} ${force:+--force}
