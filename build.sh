#!/usr/bin/env bash
# Build our images and pull the others; what is here already is not pulled again. Options go to `docker compose build`.
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$checkout/sh/messages.sh"
source "$checkout/sh/settings.sh"
source "$checkout/sh/containers.sh"

want_docker
wheels=$(setting WHEEL_DIR)
if [[ -n $wheels ]]; then # they become a part of the build's context
  [[ $wheels == /* ]] || wheels=$checkout/$wheels
  [[ -d $wheels ]] || fail "WHEEL_DIR=$wheels is no folder; correct it in .env.local"
  trap 'rm -rf "$checkout/.wheels"' EXIT
  rm -rf "$checkout/.wheels"
  cp -rL "$wheels" "$checkout/.wheels"
fi
compose build "$@"
if (($#)) && [[ ${!#} != -* ]]; then exit; fi # some of ours alone
others=(orthanc redis)
[[ $(setting DATABASE_URL) != *@postgres[:/]* ]] || others+=(postgres)
compose pull --policy missing --quiet "${others[@]}"
