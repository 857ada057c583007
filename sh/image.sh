#!/usr/bin/env bash
# A step of an image's build: `lock` makes the environment that requirements/containers.txt names, `project` puts the
# code into it, `git` collects git in /git. What Dockerfiles hand over: secrets extra_ca and pip_index_url, and the build context at /context.
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

collect_git() { # what fetching needs of Debian's package, to be laid over the same base: no Perl, no manual, 25 MB of 120
  local before file library
  mkdir -p /git/usr/bin /git/usr/lib/git-core
  before=$(mktemp)
  find / -xdev '(' -type f -o -type l ')' >"$before"
  if ! bash "$checkout/sh/install-packages.sh" git; then
    say "Debian's packages are not reached: this image has no git, and services install from folders and archives alone"
    return
  fi
  cp /usr/bin/git /git/usr/bin
  cp -P /usr/lib/git-core/git-remote-http{,s} /git/usr/lib/git-core
  ln -s git /git/usr/bin/git-upload-pack
  for file in /usr/bin/git /usr/lib/git-core/git-remote-http; do
    while read -r library; do
      library=$(realpath "${library%/*}")/${library##*/}
      grep -qxF "$library" "$before" || cp -L --parents "$library" /git
    done < <(ldd "$file" | sed -nE 's/.* => (\/[^ ]+) .*/\1/p')
  done
}

(
  reach_the_net
  case $1 in
    git)
      export http_proxy=${HTTP_PROXY:-} https_proxy=${HTTPS_PROXY:-} no_proxy=${NO_PROXY:-} # apt knows these alone
      printf 'Acquire::https::CAInfo "%s";\n' "$authorities" >/tmp/apt.conf
      if [[ -r $authorities ]]; then export APT_CONFIG=/tmp/apt.conf; fi
      collect_git
      ;;
    lock)
      python3 -m venv "$venv"
      install_lock containers
      ;;
    project) install_project ;;
    *) misuse "there is no step '$1'" ;;
  esac
)
