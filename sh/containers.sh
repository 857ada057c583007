# shellcheck shell=bash
# Compose and the command line in a container: the host needs bash, Docker and Compose v2, nothing else.

checkout=${checkout:?is set by the script that sources this}
venv=$checkout/.venv
# Whoever starts it owns what it writes, with sudo too.
export DCMPROC_UID=${SUDO_UID:-$(id -u)} DCMPROC_GID=${SUDO_GID:-$(id -g)}
base_file=docker-compose.yml
compose_files=() # what the user adds by -f
profiles=()
mounts=()

basedir() { # print the absolute path of BASEDIR
  local value
  value=$(setting BASEDIR)
  value=${value:-./basedir}
  [[ $value == /* ]] || value=$checkout/${value#./}
  printf '%s\n' "$value"
}

running_mode() { # print how it runs: local, containers, or nothing
  sed -nE 's/^ *"mode": "(local|containers)",?$/\1/p' "$(basedir)/run/stack.json" 2>/dev/null || true
}

want_docker() {
  command -v docker >/dev/null ||
    fail "Docker is not installed; install Docker with Compose v2, or run it without: \`bash run.sh --local\`"
  docker compose version >/dev/null 2>&1 ||
    fail "Compose v2 is missing (\`docker compose version\` fails; the old docker-compose does not serve); install docker-compose-plugin"
  local why
  why=$(docker version --format '{{.Server.Version}}' 2>&1 >/dev/null) ||
    fail "the Docker engine does not answer: ${why%%$'\n'*}; start it, join the group docker (\`sudo usermod -aG docker \$USER\`, then log in again), or use sudo"
}

compose() { # docker compose for this checkout, with the settings of .env and .env.local
  local options=(--project-directory "$checkout" --env-file "$checkout/.env") file
  [[ ! -e $checkout/.env.local ]] || options+=(--env-file "$checkout/.env.local")
  if ((${#compose_files[@]})) || [[ $base_file != docker-compose.yml ]]; then # else COMPOSE_FILE, or the one there is
    for file in "$checkout/$base_file" ${compose_files[@]+"${compose_files[@]}"}; do options+=(-f "$file"); done
  fi
  ! postgres_wanted || options+=(--profile postgres)
  if ((${#profiles[@]})); then
    for file in "${profiles[@]}"; do options+=(--profile "$file"); done
  fi
  BASEDIR=$(basedir) docker compose "${options[@]}" "$@"
}

postgres_wanted() { # where DATABASE_URL names the one of docker-compose.yml
  [[ $(setting DATABASE_URL) == *@postgres[:/]* ]]
}

make_folder() { # for the user; Docker would make a missing folder as root
  [[ ! -d $1 ]] || return 0
  mkdir -p "$1" || fail "the folder $1 cannot be made; name another one"
  ((EUID != 0)) || chown "$DCMPROC_UID:$DCMPROC_GID" "$1"
}

in_containers() { # whether the scripts work in containers: by what runs; while nothing does, by what has been set up
  case $(running_mode) in
    containers) return 0 ;;
    local) return 1 ;;
  esac
  [[ ! -x $venv/bin/dcm-processor ]] && command -v docker >/dev/null &&
    docker image inspect "$(setting SCHEDULER_IMAGE)" >/dev/null 2>&1
}

mounts_of() { # sets mounts to the files and folders that the words of a command name; a backup's folder is made by the user
  local word='' path
  mounts=()
  [[ "${1-} ${2-}" != 'service update' ]] || add_known_sources
  for path; do
    case $word in -b | --backup) add_backup_folder "$path" ;; esac
    case $path in
      --backup=*) add_backup_folder "${path#*=}" ;;
      --path=*) add_source "${path#*=}" ;;
      -p?*) add_source "${path#-p}" ;;
      -b?*) add_backup_folder "${path#-b}" ;;
      *) add_source "$path" ;;
    esac
    word=$path
  done
}

add_backup_folder() {
  make_folder "$1"
  add_mount "$1"
}

add_source() { # a path, or a URL of something on this machine: [git+]file://PATH[@REF][#subdirectory=…]
  local path=$1
  case $path in
    file://* | git+file://*)
      path=${path#*file://} path=${path#localhost} path=${path%%#*} path=${path//%20/ }
      [[ -e $path ]] || path=${path%@*}
      ;;
  esac
  add_mount "$path" :ro
}

add_known_sources() { # where the installed services came from: an update goes there again
  local link note source
  for link in "$(basedir)"/registry/*; do
    [[ -L $link ]] || continue
    note=${link%/*}/$(readlink "$link").json
    [[ -r $note ]] || continue
    source=$(sed -nE 's/^ *"source": "(.*)",$/\1/p' "$note")
    add_source "$source"
  done
}

add_mount() { # where there is such a file or folder
  local path=$1
  [[ -n $path && -e $path ]] || return 0
  [[ $path == /* ]] || path=$PWD/$path
  [[ $path != *:* ]] || fail "$path: Docker cannot mount what has a colon in its name; give it another one"
  local mount
  for mount in ${mounts[@]+"${mounts[@]}"}; do
    [[ $mount != "$path:$path${2:-}" ]] || return 0
  done
  mounts+=("$path:$path${2:-}")
}

in_container() { # the command line in a container: BASEDIR, this folder and what $mounts says, at their own paths
  local options=(--rm --no-deps) place mount status=0
  place=$(basedir)
  make_folder "$place"
  for mount in ${mounts[@]+"${mounts[@]}"}; do options+=(--volume "$mount"); done
  [[ -t 0 && -t 1 ]] || options+=(--no-TTY)
  compose --profile cli --progress quiet run "${options[@]}" --volume "$place:$place" --volume "$checkout:$checkout:ro" \
    --env DCM_PROCESSOR_HOME="$checkout" --workdir "$PWD" cli "$@" || status=$?
  [[ $(running_mode) == containers ]] || remove_idle_networks
  return $status
}

remove_idle_networks() { # which the call above made, and nobody uses; Docker refuses where somebody does
  local name
  name=$(project)
  docker network rm "${name}_inside" "${name}_outside" >/dev/null 2>&1 || true
}

project() { # print Compose's name for this stack
  compose config | sed -nE 's/^name: //p'
}
