# shellcheck shell=bash
# Debian packages: what is missing is collected, then installed in one go or named in one line.

checkout=${checkout:?is set by the script that sources this}
missing=()

orthanc_wanted() { # not where .env names an Orthanc of somebody else's
  [[ $(setting ORTHANC_REST_URL) =~ ^https?://orthanc(:|/|$) ]]
}

want_orthanc() {
  if orthanc_wanted && ! has_orthanc; then missing+=(orthanc); fi
}

has_orthanc() { command -v Orthanc >/dev/null || [[ -x /usr/sbin/Orthanc ]]; }

want_test_servers() { # what the tests start, and the scanner's tools
  has_orthanc || missing+=(orthanc)
  compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
  command -v chromium >/dev/null || missing+=(chromium)
  compgen -G '/usr/lib/*/libatomic.so.1' >/dev/null || missing+=(libatomic1) # of the node that drives Chromium
  command -v git >/dev/null || missing+=(git) # a test installs from repositories
  command -v dcmdump >/dev/null || missing+=(dcmtk)
}

may_install() { # sets as_root to what makes a command run as root
  as_root=()
  command -v apt-get >/dev/null || return 1
  ((EUID != 0)) || return 0
  as_root=(sudo -n)
  command -v sudo >/dev/null && sudo -n true 2>/dev/null
}

install_missing() {
  ((${#missing[@]})) || return 0
  if ! may_install; then
    local advice="missing: ${missing[*]}; install with \`apt-get install --no-install-recommends ${missing[*]}\` as root"
    if [[ " ${missing[*]} " == *' orthanc '* ]]; then
      advice+=", then \`systemctl disable --now orthanc\` (ours wants the same ports), or name an Orthanc of yours by ORTHANC_REST_URL in .env.local"
    fi
    fail "$advice"
  fi
  say "installing ${missing[*]}"
  "${as_root[@]}" bash "$checkout/sh/install-packages.sh" "${missing[@]}" ||
    fail "apt-get could not install ${missing[*]} (its last words are above); install them and start again"
  missing=()
}
