#!/usr/bin/env bash
# Set up what the tests need and pass all that this machine can run; says what it left out and why.
# Arguments go to pytest, as in `bash test.sh -k plan`.
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
source "$checkout/sh/messages.sh"
source "$checkout/sh/settings.sh"
source "$checkout/sh/packages.sh"
source "$checkout/sh/python.sh"

# What is needed? Nothing is touched yet.
want_python dev
install_missing
want_test_servers
if ! may_install; then
  ((${#missing[@]} == 0)) || say "not installed, so what needs it is left out: ${missing[*]}"
  missing=()
fi

# From here on this machine changes: packages, .venv and __pycache__.
unset PYTHONDONTWRITEBYTECODE # the tests start some thousand programs, which would compile this checkout each time
install_missing
prepare_environment dev

cd "$checkout"
shopt -s globstar nullglob
# The project's own, not what a user makes in this folder: init.local.sh, services.
scripts=({build,cli,init,run,service,test}.sh sh/*.sh .ci/run services/{dcm2nii,temp}/**/*.sh)
failed=()

check() { # run the rest as the check named $1; go on where it fails
  say "$1"
  "${@:2}" || failed+=("$1")
}

check ruff "$venv/bin/ruff" check
check 'ruff format' "$venv/bin/ruff" format --check
check mypy "$venv/bin/mypy"
check import-linter "$venv/bin/lint-imports"
check shellcheck "$venv/bin/shellcheck" "${scripts[@]}"
check pytest "$venv/bin/python" -m pytest -p tests.left_out -p tests.side_by_side \
  --numprocesses auto --no-loadscope-reorder "$@"

((${#failed[@]} == 0)) || fail "failed: ${failed[*]}"
say "everything passed that ran"
