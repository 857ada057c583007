# shellcheck shell=bash
# The stack in containers: up, down, and what may be in the way. Sourced after sh/containers.sh and sh/arguments.sh.
# shellcheck disable=SC2154 # the words of the command line are set by the other

checkout=${checkout:?is set by the script that sources this}

containers_up() {
  local running workers started='' arguments=(--detach --wait --wait-timeout 900)
  refuse_other_checkouts
  ! postgres_wanted || ((DCMPROC_UID != 0)) ||
    fail "PostgreSQL does not run as root; start as another user, with sudo where that user may not use Docker"
  make_folder "$(basedir)"
  want_images
  if [[ -n $workers_only ]]; then
    prepare_worker_host
  else
    [[ -n $(compose ps --quiet) ]] || started=1
    [[ -z $demo || -z $started ]] || export STABLE_AGE=2
    in_container containers prepare
    orthanc_wanted || arguments+=(--scale orthanc=0)
    redis_wanted || arguments+=(--scale redis=0)
  fi
  running=$(compose ps --quiet worker | wc -l)
  workers=${scale#worker=}
  workers=${workers:-$((running > 0 ? running : 1))}
  compose up "${arguments[@]}" --scale "worker=$workers" "${options[@]+"${options[@]}"}" || explain_failure
  if [[ -n $workers_only ]]; then
    say "$workers worker(s) run here; \`docker compose -f docker-compose.worker.yml logs\` shows what they do"
    return
  fi
  in_container containers started --workers "$workers"
  [[ -z $demo ]] || in_container demo ${force:+--force} ${started:+--started-by-us}
}

containers_down() {
  compose down --remove-orphans "${options[@]+"${options[@]}"}"
  rm -f "$(basedir)/run/stack.json"
  say "stopped; nothing is lost: the next start goes on"
}

want_images() { # ours, where they have not been built
  local image
  for image in "$(setting SCHEDULER_IMAGE)" "$(setting WORKER_IMAGE)"; do
    docker image inspect "$image" >/dev/null 2>&1 || {
      say "the image $image is not here yet: building"
      bash "$checkout/build.sh"
      return
    }
  done
}

redis_wanted() { # not where .env names a Redis of somebody else's
  [[ -z $(setting REDIS_URL) && $(setting REDIS_HOST) == redis ]]
}

refuse_other_checkouts() { # Compose would take the containers of another folder of the same name for ours
  local other
  other=$(docker ps --all --filter "label=com.docker.compose.project=$(project)" \
    --format '{{.Label "com.docker.compose.project.working_dir"}}' | grep -vxF "$checkout" | head -n 1) || true
  [[ -z $other ]] ||
    fail "the containers of $other have the same project name; set COMPOSE_PROJECT_NAME in .env.local to another one"
}

prepare_worker_host() {
  local place
  place=$(basedir)
  docker run --rm --user "$DCMPROC_UID:$DCMPROC_GID" --network none --volume "$place:$place" --env BASEDIR="$place" \
    "$(setting WORKER_IMAGE)" dcm-processor containers prepare --workers-only
}

explain_failure() { # show what is not healthy; where all is, Compose has said what it did not take
  local service found sick
  found=$(compose ps --all --format '{{.Service}} {{.State}} {{.Health}}') || found='not known'
  if [[ -z $found$workers_only ]]; then # nothing was started, so that nothing runs
    rm -f "$(basedir)/run/stack.json"
    remove_idle_networks
  fi
  sick=$(awk 'NF && ($2 != "running" || $3 != "healthy") {print $1}' <<<"$found" | sort -u)
  [[ -n $sick && $found != 'not known' ]] || fail "Docker Compose refused; \`bash run.sh --help\` shows what there is"
  compose ps --all >&2 || true
  for service in $sick; do
    say "the end of the log of $service:"
    compose logs --no-color --tail 20 "$service" >&2 || true
  done
  fail "not everything became healthy; what did runs on: mend the rest and start again, or \`bash run.sh --down\`"
}
