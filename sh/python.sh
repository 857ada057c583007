# shellcheck shell=bash
# The Python environment in .venv: made from the locks in requirements/, made again only when something changed.

checkout=${checkout:?is set by the script that sources this}
venv=$checkout/.venv

python_fits() { # whether $1 is a Python 3.11 or newer that runs (a version manager's stand-in may not)
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() { # sets python, or leaves it empty
  local candidate
  python=''
  for candidate in python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
    if python_fits "$candidate"; then
      python=$candidate
      return
    fi
  done
}

want_python() { # what the environment needs from Debian; nothing where it stands already
  ! environment_is_current "$1" || return 0
  find_python
  if [[ -z $python ]]; then
    missing+=(python3.11 python3.11-venv)
  elif ! command -v uv >/dev/null && ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    case $(command -v "$python") in
      /usr/bin/python3 | /bin/python3) missing+=(python3-venv) ;;
      *) missing+=("${python##*/}-venv") ;;
    esac
  fi
}

fingerprint() { # of all that the environment for lock $1 is made from
  printf '%s\n' "$checkout"
  "$venv/bin/python" -VV && sha256sum "$checkout/requirements/$1.txt" "$checkout/requirements/build.txt" "$checkout/pyproject.toml"
}

environment_is_current() {
  [[ -x $venv/bin/python && -e $venv/made-from-$1 ]] &&
    [[ $(fingerprint "$1" 2>/dev/null) == "$(<"$venv/made-from-$1")" ]]
}

prepare_environment() { # have .venv hold what lock $1 (server or dev) names, and the project itself
  ! environment_is_current "$1" || return 0
  (
    flock 9 # one at a time; the lock goes with this subshell
    environment_is_current "$1" || make_environment "$1"
  ) 9<"$checkout"
}

stack_runs() { # whether a program of local mode runs from here; their environments say so, whatever the code is by now
  local environment
  while read -r environment; do
    ! grep -qsz '^DCM_PROCESSOR_STACK=' "$environment" || return 0
  done < <(grep -lsFzx "DCM_PROCESSOR_HOME=$checkout" /proc/[0-9]*/environ)
  return 1
}

refuse_under_a_running_stack() { # packages are not exchanged under programs that use them
  if ! environment_is_current server && stack_runs; then
    fail "this version needs other packages than the stack that runs from here; \`bash run.sh --local --down\`, then again"
  fi
}

make_environment() {
  local lock=$1
  refuse_under_a_running_stack
  say "making the Python environment in .venv"
  reach_the_net
  if ! python_fits "$venv/bin/python" || [[ $(head -n 1 "$venv/checkout" 2>/dev/null) != "$checkout" ]]; then
    [[ ! -e $venv || -e $venv/pyvenv.cfg ]] || fail "$venv is there and is no Python environment; move it away"
    rm -rf "$venv"
    find_python
    if command -v uv >/dev/null; then
      uv venv --quiet --python "$(command -v "$python")" "$venv"
    else
      "$python" -m venv "$venv"
    fi
    printf '%s\n' "$checkout" >"$venv/checkout"
  fi
  rm -f "$venv"/made-from-*
  install_lock "$lock"
  install_project

  [[ $lock != dev ]] || fingerprint server >"$venv/made-from-server" # dev.txt holds all of server.txt
  fingerprint "$lock" >"$venv/made-from-$lock"
}

find_uv() { # sets uv; where the machine has none, pip brings it from lock $1, and uv the rest: seconds instead of a minute
  if ! uv=$(command -v uv); then
    uv=$venv/bin/uv
    [[ ! -x $uv ]] || return 0
    sed -n '/^uv==/,/[^\\]$/p' "$checkout/requirements/$1.txt" >"$venv/uv.txt"
    install_from_index "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
      --requirement "$venv/uv.txt"
  fi
}

install_lock() { # what lock $1 names, each file by its hash
  local uv
  find_uv "$1"
  install_from_index "$uv" pip install --quiet --python "$venv/bin/python" --compile-bytecode --require-hashes \
    --requirement "$checkout/requirements/$1.txt"
}

install_project() { # this checkout itself, as it lies here
  local uv
  find_uv server
  install_from_index "$uv" pip install --quiet --python "$venv/bin/python" --no-deps \
    --build-constraints "$checkout/requirements/build.txt" --editable "$checkout"
}

install_from_index() { # run pip or uv; with a folder of wheels and no mirror, from that folder alone if it has all
  local said status=0
  if [[ -n $only_wheels ]]; then
    ! "$@" --no-index || return 0
    say "WHEEL_DIR does not hold all that is needed (above); asking PyPI"
  fi
  said=$(mktemp)
  "$@" 2>&1 | tee "$said" >&2 || status=1
  if ((status)) && grep -qiE 'CERTIFICATE_VERIFY_FAILED|invalid peer certificate|certificate verify failed' "$said"; then
    rm -f "$said"
    fail "a certificate on the way to PyPI comes from an authority that is not trusted here, as where a proxy opens TLS;" \
      "put that authority's certificate (PEM) into a file and name it by EXTRA_CA_FILE in .env.local"
  fi
  rm -f "$said"
  return $status
}

reach_the_net() { # proxies, mirrors, wheels and authorities of .env, for pip and uv
  local key value
  authorities=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
  for key in HTTP_PROXY HTTPS_PROXY NO_PROXY PIP_INDEX_URL; do
    value=$(setting "$key")
    [[ -z $value ]] || export "$key=$value"
  done
  [[ -z ${PIP_INDEX_URL:-} ]] || export UV_DEFAULT_INDEX=$PIP_INDEX_URL
  only_wheels=''
  value=$(path_setting WHEEL_DIR)
  if [[ -n $value ]]; then
    export PIP_FIND_LINKS=$value UV_FIND_LINKS=$value
    [[ -n ${PIP_INDEX_URL:-} ]] || only_wheels=yes
  fi

  value=$(path_setting EXTRA_CA_FILE)
  if [[ -n $value ]]; then
    [[ -r $value ]] || fail "EXTRA_CA_FILE=$value cannot be read; correct it in .env.local"
    bundle=$(mktemp)
    trap 'rm -f "$bundle"' EXIT # of the subshell that makes the environment
    cat "$authorities" "$value" >"$bundle"
    authorities=$bundle
    export REQUESTS_CA_BUNDLE=$bundle # one that is set already would go before PIP_CERT
  fi
  if [[ -r $authorities ]]; then
    export SSL_CERT_FILE=$authorities PIP_CERT=$authorities
  fi
}
