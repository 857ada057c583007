#!/usr/bin/env bash
# Start dcm-processor, or stop it; `bash run.sh --help` says how.
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$checkout/sh/messages.sh"
source "$checkout/sh/settings.sh"
source "$checkout/sh/old_settings.sh"
source "$checkout/sh/packages.sh"
source "$checkout/sh/python.sh"
source "$checkout/sh/containers.sh"
source "$checkout/sh/arguments.sh"
source "$checkout/sh/stack.sh"

# What is wanted? Nothing is touched yet.
parse_arguments "$@"
[[ $action == down ]] || warn_of_old_settings

case $mode-$action in
  local-down)
    if [[ ! -x $venv/bin/dcm-processor ]]; then
      say "nothing runs: nothing was ever started from this folder"
      exit 0
    fi
    ;;
  local-up)
    # From here on this machine changes: packages, .venv, BASEDIR.
    want_python server
    want_orthanc
    install_missing
    prepare_environment server
    ;;
  containers-down)
    want_docker
    containers_down
    exit
    ;;
  containers-up)
    want_docker
    # From here on this machine changes: images, BASEDIR, containers.
    containers_up
    exit
    ;;
esac

exec "$venv/bin/dcm-processor" stack "$action" ${scale:+--scale "$scale"} ${demo:+--demo} ${force:+--force}
