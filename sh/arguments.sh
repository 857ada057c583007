# shellcheck shell=bash
# What run.sh was asked for. Sets mode, action, force, demo, scale and, for containers, options (for `docker compose up` or
# `down`), compose_files and profiles; touches nothing.

usage() {
  cat <<'TEXT'
Usage: bash run.sh [--scale worker=N] [--demo [--force]] [OPTION…]
       bash run.sh --local [--scale worker=N] [--demo [--force]]
       bash run.sh [--local] --down

Starts dcm-processor, waits until it is healthy and says what runs where. A second start changes nothing that runs.

  --local            run it as processes of this machine, without Docker; installs what it lacks
  --scale worker=N   how many workers (1 at a first start); while it runs, more or fewer: one that goes gives its job
                     WORKER_STOP_GRACE seconds, then hands the attempt back, and another worker starts it again
  --demo             then send two sample studies, wait for their jobs and show what ran; fails if a job failed
  --force            the demo also where other studies or services are
  --down             stop everything; nothing is lost
  --workers-only     workers alone, for a stack on another host (docs/workers.md)
  --help             this text

Without --local it runs in containers, and every other OPTION goes to `docker compose` as it is: -f FILE, --profile NAME,
and what `docker compose up` takes, or `docker compose down` with --down.

Settings are in .env; your own go into .env.local. Exit status: 0 done, 1 failed, 2 wrong usage.
TEXT
}

# shellcheck disable=SC2034,SC2154 # run.sh reads them; venv is set by sh/python.sh
parse_arguments() {
  mode='' action=up demo='' force='' scale='' workers_only='' options=() foreign=''
  while (($#)); do
    case $1 in
      --local) mode=local ;;
      --down) action=down ;;
      --demo) demo=1 ;;
      --force) force=1 ;;
      --workers-only) workers_only=1 base_file=docker-compose.worker.yml ;;
      --scale)
        (($# > 1)) || misuse "--scale needs a second word, worker=N"
        take_scale "$2"
        shift
        ;;
      --scale=*) take_scale "${1#--scale=}" ;;
      -f | --file | --profile)
        (($# > 1)) || misuse "$1 needs a second word"
        if [[ $1 == --profile ]]; then profiles+=("$2"); else compose_files+=("$2"); fi
        foreign=$1
        shift
        ;;
      -h | --help)
        usage
        exit 0
        ;;
      *) options+=("$1") foreign=$1 ;;
    esac
    shift
  done
  # Starting goes by what was asked for, stopping by what runs.
  if [[ $action == down && -z $workers_only && $(running_mode) != containers ]]; then mode=local; fi
  mode=${mode:-containers}

  if [[ $mode == local && -n $foreign ]]; then
    misuse "there is no option '$foreign' with --local"
  fi
  if [[ $mode == local && -n $workers_only ]]; then
    misuse "--workers-only goes with containers"
  fi
  if [[ -n $scale && ! $scale =~ ^worker=[0-9]{1,3}$ ]]; then
    misuse "--scale $scale: only workers can be scaled, as in --scale worker=4"
  fi
  if [[ $action == down && -n $demo$scale ]]; then
    misuse "--down takes neither --demo nor --scale"
  fi
  if [[ -n $force && -z $demo ]]; then
    misuse "--force goes with --demo"
  fi
  if [[ -n $workers_only && -n $demo ]]; then
    misuse "--workers-only has no --demo: that goes with the first host"
  fi
}

take_scale() { # worker=N is ours to know; Compose takes any other service
  if [[ $1 == worker || $1 == worker=* ]]; then
    scale=$1
  else
    options+=(--scale "$1") foreign="--scale $1"
  fi
}
