# shellcheck shell=bash
# The few settings that are needed before there is a Python to read them; same order as dcm_processor/settings.py.

checkout=${checkout:?is set by the script that sources this}

setting() {  # print the value of key $1: the environment, else .env.local, else .env, else nothing
  local key=$1 file value
  if [[ -n ${!key:-} ]]; then
    printf '%s\n' "${!key}"
    return
  fi
  for file in "$checkout/.env.local" "$checkout/.env"; do
    [[ -r $file ]] || continue
    value=$(sed -nE "s/^[[:space:]]*(export[[:space:]]+)?${key}[[:space:]]*=[[:space:]]*//p" "$file")
    value=${value##*$'\n'}  # the last one wins
    case $value in
      \"*\"*) value=${value#\"} value=${value%%\"*} ;;
      \'*\'*) value=${value#\'} value=${value%%\'*} ;;
      *) value=${value%%[[:space:]]#*} value=${value%"${value##*[![:space:]]}"} ;;
    esac
    [[ -z $value ]] || break
  done
  printf '%s\n' "${value:-}"
}

path_setting() {  # the same for a file or folder, relative to the checkout
  local value
  value=$(setting "$1")
  [[ -z $value || $value == /* ]] || value=$checkout/${value#./}
  printf '%s\n' "$value"
}
