#!/usr/bin/env bash
# Install the base services. Run it again at any time: what is installed already stays.
# To have services of your own installed with them, write their `bash service.sh install …` lines here or in init.local.sh.
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)

for service in temp dcm2nii; do
  bash "$checkout/service.sh" install "$service" -p "$checkout/services/$service"
done

if [[ -e $checkout/init.local.sh ]]; then
  exec bash "$checkout/init.local.sh"
fi
