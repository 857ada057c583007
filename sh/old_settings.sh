# shellcheck shell=bash
# Settings of the dcm-processor of 2021 that mean nothing here, or something else (docs/migrating.md).

checkout=${checkout:?is set by the script that sources this}

# shellcheck disable=SC2154 # mode is set by parse_arguments
warn_of_old_settings() {  # name each one that .env and .env.local have, with what to write instead; never its value
  local file key value old new
  for file in .env .env.local; do
    [[ -r $checkout/$file ]] || continue
    while IFS='=' read -r key value || [[ -n $key ]]; do
      old=$key
      value=${value//[\"\' ]/}
      case $key in
        REDIS_PSWD) new="leave it out: the password is made at the first start; one of your own Redis goes into REDIS_URL" ;;
        WORKER_JOBS) new="write WORKER_QUEUES, and name each queue in QUEUES as well" ;;
        DEFUALT_PRIORITY) new="write DEFAULT_PRIORITY" ;;
        ORTHANC_DEFUALT_STORE) new="leave it out: results are not sent to other DICOM nodes" ;;
        CLEAN_ORTHANC) new="leave it out: studies stay in Orthanc" ;;
        REDIS_HOST)
          [[ $value == redis_server ]] || continue
          old="REDIS_HOST=redis_server" new="leave it out, or write REDIS_HOST=redis: any other name is a Redis of your own"
          ;;
        MODULES | DATA | REGISTRY | LOGS)
          [[ $mode == local && $value == "/${key,,}" ]] || continue
          old="$key=/${key,,}" new="leave it out: it is that folder of BASEDIR, and without containers this names one of the machine"
          ;;
        *) continue ;;
      esac
      say "warning: $file has $old, of the dcm-processor of 2021; $new (docs/migrating.md)"
    done < <(sed -nE 's/^[[:space:]]*(export[[:space:]]+)?([A-Z_]+)[[:space:]]*=[[:space:]]*([^#]*).*$/\2=\3/p' "$checkout/$file")
  done
}
