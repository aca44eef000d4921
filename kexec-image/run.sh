#!/bin/sh
# Starts the installer that lies beside this script, on the system that runs now.
#
# Reads what the operator needs to get in again (keys, host keys, addresses), packs it into an
# archive at the end of the initrd, loads the kernel, and jumps some seconds later, so that the
# login that started this can end well. Writes nothing outside its own directory.
#
# usage: run [--kexec-extra-flags FLAGS]
#
# `find`, `cpio` and `gzip` come from PATH on purpose: on a system that lacks them, whoever starts
# this script can stand in for them, and can add to the archive on its way.
set -eu

command_line=@commandLine@
extra_flags=
while [ $# -gt 0 ]; do
  case $1 in
    --kexec-extra-flags)
      [ $# -ge 2 ] || { echo "error: --kexec-extra-flags needs a value" >&2; exit 2; }
      extra_flags=$2
      shift 2
      ;;
    *)
      echo "error: unknown argument $1" >&2
      exit 2
      ;;
  esac
done

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

for tool in find cpio gzip; do
  command -v "$tool" >/dev/null || { echo "error: $tool is not in PATH" >&2; exit 1; }
done

# A second archive would hand over the first one's keys as well.
if [ -e "$here/initrd.extended" ]; then
  echo "error: refusing to extend $here/initrd twice" >&2
  echo "hint: unpack the image again and run that one" >&2
  exit 1
fi

umask 077
state=$(mktemp -d "$here/state.XXXXXX")
trap 'rm -rf "$state"' EXIT
mkdir "$state/ssh"
authorized=$state/ssh/authorized_keys
: >"$authorized"

home_of() {
  { getent passwd "$1" 2>/dev/null || grep "^$1:" /etc/passwd || :; } | cut -d: -f6
}

# Keeps only the keys themselves: a forced command of the old system ("please log in as ...") must not
# lock the operator out of the installer. A certificate authority is not a key to log in with.
plain_keys() {
  sed -n -E -e '/^[[:space:]]*#/d' -e '/cert-authority/d' \
    -e 's/^(.*[[:space:]])?((ssh|ecdsa|sk)-[^[:space:]]+[[:space:]]+AAAA.*)$/\2/p' "$1"
}

for user in root "${SUDO_USER:-}" "${DOAS_USER:-}"; do
  [ -n "$user" ] || continue
  home=$(home_of "$user")
  for file in "$home/.ssh/authorized_keys" "$home/.ssh/authorized_keys2" \
    "/etc/ssh/authorized_keys.d/$user"; do
    [ ! -f "$file" ] || plain_keys "$file" >>"$authorized"
  done
done
[ -s "$authorized" ] || echo "warning: no authorized keys found; continuing because the caller may add one" >&2

for key in /etc/ssh/ssh_host_*; do
  [ ! -f "$key" ] || cp -p "$key" "$state/ssh/"
done
[ ! -f /etc/machine-id ] || cp /etc/machine-id "$state/machine-id"

"$here/ip" --json --details addr >"$state/addrs.json"
"$here/ip" -4 --json route >"$state/routes-v4.json"
"$here/ip" -6 --json route >"$state/routes-v6.json"

# In two commands, because a pipe would hide that the first one failed: not every sh has pipefail.
(cd "$state" && find . | cpio -o -H newc) >"$here/state.cpio"
: >"$here/initrd.extended"
gzip -9 <"$here/state.cpio" >>"$here/initrd"
rm "$here/state.cpio"

# Before 6.1 kexec_file_load takes images that do not start; from then on it may be the only call a
# locked-down kernel allows.
syscall=
version=$(uname -r)
major=${version%%.*}
minor=${version#*.}
minor=${minor%%[!0-9]*}
if [ "$major" -gt 6 ] || { [ "$major" -eq 6 ] && [ "$minor" -ge 1 ]; }; then
  syscall=--kexec-syscall-auto
fi

# shellcheck disable=SC2086 # flags are words
if ! "$here/kexec" --load "$here/bzImage" $syscall $extra_flags \
  --initrd="$here/initrd" --no-checks --command-line "$command_line"; then
  echo "error: cannot load the installer's kernel" >&2
  echo "what the running kernel says:" >&2
  dmesg 2>/dev/null | tail -n 100 >&2
  exit 1
fi

log=/dev/kmsg
[ -w "$log" ] || log=/dev/null
echo "machine will boot into nixos in 6s..."
# shellcheck disable=SC2016 # expanded by the inner shell
nohup sh -c 'sleep 6; exec "$0" -e $1' "$here/kexec" "$extra_flags" </dev/null >"$log" 2>&1 &
