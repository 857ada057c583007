# shellcheck shell=bash
# What the scripts say to people: progress on stderr, one clear line where something is wrong.

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

fail() {  # 1: it could not be done
  say "$*"
  exit 1
}

misuse() {  # 2: it was asked for in a way that cannot be
  say "$*; \`bash ${0##*/} --help\` shows what there is"
  exit 2
}
