# shellcheck shell=bash
# What run.sh was asked for. Sets mode, action, force, demo and scale; touches nothing.

usage() {
  cat <<'TEXT'
Usage: bash run.sh [--local] [--scale worker=N] [--demo [--force]]
       bash run.sh [--local] --down

Starts dcm-processor, waits until it is healthy and says what runs where. A second start changes nothing that runs.

  --local            run it as processes of this machine, without Docker; installs what it lacks
  --scale worker=N   how many workers (1 at a first start; a running stack is changed without stopping its jobs)
  --demo             then send two sample studies, wait for their jobs and show what ran; fails if a job failed
  --force            the demo also where other studies or services are
  --down             stop everything; nothing is lost
  --help             this text

Settings are in .env; your own go into .env.local. Exit status: 0 done, 1 failed, 2 wrong usage.
TEXT
}

# shellcheck disable=SC2034 # run.sh reads them
parse_arguments() {
  mode=containers action=up demo='' force='' scale=''
  while (($#)); do
    case $1 in
      --local) mode=local ;;
      --down) action=down ;;
      --demo) demo=1 ;;
      --force) force=1 ;;
      --scale)
        (($# > 1)) || misuse "--scale needs a second word, worker=N"
        scale=$2
        shift
        ;;
      --scale=*) scale=${1#--scale=} ;;
      -h | --help)
        usage
        exit 0
        ;;
      *) misuse "there is no option '$1'" ;;
    esac
    shift
  done

  if [[ -n $scale && ! $scale =~ ^worker=[0-9]{1,3}$ ]]; then
    misuse "--scale $scale: only workers can be scaled, as in --scale worker=4"
  fi
  if [[ $action == down && -n $demo$scale ]]; then
    misuse "--down takes neither --demo nor --scale"
  fi
  if [[ -n $force && -z $demo ]]; then
    misuse "--force goes with --demo"
  fi
}
