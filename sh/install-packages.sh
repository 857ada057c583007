#!/usr/bin/env bash
# Install Debian packages so that none of their services starts, neither now nor at the next boot, and nothing that is
# installed already is touched. Needs root; the other scripts call it (sh/packages.sh).
set -euo pipefail

policy=/usr/sbin/policy-rc.d # Debian's way to forbid service starts; invoke-rc.d and deb-systemd-invoke ask it
mark='written by dcm-processor while it installs packages'
services=(orthanc postgresql) # those of our packages that bring one

log=$(mktemp)
put_back() { # the machine's own policy; also after a run that was killed
  if grep -qs "$mark" "$policy"; then rm -f "$policy"; fi
  if [[ $policy.own -ef $policy ]]; then # killed before ours took its place
    rm -f "$policy.own"
  elif [[ -e $policy.own || -L $policy.own ]]; then
    mv -f "$policy.own" "$policy"
  fi
}
clean_up() {
  rm -f "$log"
  put_back
}
exec 9>/run/dcm-processor-packages.lock
flock 9 # one after the other: each puts back what it found
trap clean_up EXIT
trap 'exit 130' INT TERM HUP
put_back

has_service() { [[ -e /etc/init.d/$1 || -e /lib/systemd/system/$1.service ]]; }

new=()
for service in "${services[@]}"; do
  has_service "$service" || new+=("$service")
done

printf '#!/bin/sh\n# %s\nexit 101\n' "$mark" >"$policy.new"
chmod 755 "$policy.new"
if [[ -e $policy || -L $policy ]]; then ln -P "$policy" "$policy.own"; fi # at no moment is there none
mv "$policy.new" "$policy"

export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
apt=(apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
if ! "${apt[@]}" update >"$log" 2>&1 || ! "${apt[@]}" install -y --no-install-recommends --no-upgrade "$@" >>"$log" 2>&1; then
  tail -n 15 "$log" >&2
  exit 1
fi

for service in "${new[@]}"; do
  if has_service "$service"; then
    update-rc.d "$service" disable >/dev/null 2>&1 || true # no such script where the package brings a unit only
    if command -v systemctl >/dev/null; then
      systemctl --quiet disable "$service.service" >/dev/null 2>&1 || true # links only; also where systemd does not run
    fi
  fi
done
