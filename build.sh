#!/usr/bin/env bash
# Build the images of the containers.
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$checkout/sh/messages.sh"

fail "containers are not part of this version; \`bash run.sh --local\` needs no build"
