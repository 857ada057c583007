#!/usr/bin/env bash
# A step of an image's build: `lock` makes the environment that requirements/containers.txt names, `project` puts the
# code into it. What Dockerfiles hand over: secrets extra_ca and pip_index_url, and the build context at /context.
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
source "$checkout/sh/messages.sh"
source "$checkout/sh/settings.sh"
source "$checkout/sh/python.sh"

if [[ -s /run/secrets/extra_ca ]]; then export EXTRA_CA_FILE=/run/secrets/extra_ca; fi
if [[ -s /run/secrets/pip_index_url ]]; then
  PIP_INDEX_URL=$(</run/secrets/pip_index_url)
  export PIP_INDEX_URL
fi
if [[ -d /context/.wheels ]]; then export WHEEL_DIR=/context/.wheels; fi
export UV_LINK_MODE=copy # from the cache, which is another file system

(
  reach_the_net
  case $1 in
    lock)
      python3 -m venv "$venv"
      install_lock containers
      ;;
    project) install_project ;;
    *) misuse "there is no step '$1'" ;;
  esac
)
