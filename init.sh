#!/usr/bin/env bash
# Install the base services. Run it again at any time: what is installed already stays.
# To have services of your own installed with them, write their `bash service.sh install …` lines here or in init.local.sh.
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$checkout/sh/messages.sh"

case ${1-} in
  '') ;;
  -h | --help)
    echo "Usage: bash init.sh    installs the base services, temp and dcm2nii; then runs init.local.sh if there is one"
    exit
    ;;
  *) misuse "it takes no argument, and '$1' is one" ;;
esac

for service in temp dcm2nii; do
  bash "$checkout/service.sh" install "$service" -p "$checkout/services/$service"
done

if [[ -e $checkout/init.local.sh ]]; then
  exec bash "$checkout/init.local.sh"
fi
