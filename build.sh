#!/usr/bin/env bash
# Build our images and pull the others; what is here already is not pulled again. Options go to `docker compose build`.
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$checkout/sh/messages.sh"
source "$checkout/sh/settings.sh"
source "$checkout/sh/containers.sh"

want_docker
wheels=$(path_setting WHEEL_DIR)
if [[ -n $wheels ]]; then # they become a part of the build's context
  [[ -d $wheels ]] || fail "WHEEL_DIR=$wheels is no folder; correct it in .env.local"
  trap 'rm -rf "$checkout/.wheels"' EXIT
  rm -rf "$checkout/.wheels"
  cp -rL "$wheels" "$checkout/.wheels"
fi
PIP_INDEX_URL=$(setting PIP_INDEX_URL) # Compose takes a secret from the environment alone
export PIP_INDEX_URL
compose build "$@"
if (($#)) && [[ ${!#} != -* ]]; then exit; fi # some of ours alone
others=(orthanc redis)
[[ $(setting DATABASE_URL) != *@postgres[:/]* ]] || others+=(postgres)
compose pull --policy missing --quiet "${others[@]}"
