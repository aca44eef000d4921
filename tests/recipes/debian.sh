# debian.sh: sourced by the recipes that take something from Debian. Needs WORK (a scratch folder).
#
# Everything the rig is made of comes from one suite, so that kernel, modules and C library agree,
# whatever release this machine itself runs. The mirror is the one this machine's apt uses; it is
# asked for at run time and stored nowhere.

SUITE=trixie
TRIPLET=x86_64-linux-gnu

mirror() {
  uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' \
    'Label: Debian' | head -n 1)
  [ -n "$uri" ] || { echo "no Debian mirror among this machine's apt sources: run \`apt-get update\`" >&2; exit 1; }
  echo "${uri%/}"
}

# bootstrap DIR PACKAGE,PACKAGE...: a root file system of the suite, without documentation.
bootstrap() {
  mmdebstrap --quiet --mode=root --variant=minbase --include="$2" \
    --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    "$SUITE" "$1" "deb $(mirror) $SUITE main"
}

# apt_private ARGUMENT...: apt-get with lists of its own, for the suite's packages and sources;
# touches nothing of this machine's apt.
apt_private() {
  apt=$WORK/apt
  if [ ! -e "$apt/etc/suite.sources" ]; then
    mkdir -p "$apt/etc" "$apt/lists/partial" "$apt/cache/archives/partial"
    : > "$apt/status"
    printf 'Types: deb deb-src\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n' \
      "$(mirror)" "$SUITE" /usr/share/keyrings/debian-archive-keyring.gpg > "$apt/etc/suite.sources"
    apt_private_run update
  fi
  apt_private_run "$@"
}

apt_private_run() {
  apt-get -qq -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$apt/etc" \
    -o "Dir::State::lists=$apt/lists" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache" \
    -o APT::Sandbox::User=root -o APT::Install-Recommends=false "$@"
}

# chroot_libraries ROOT PROGRAM...: the shared libraries of programs inside a root file system.
chroot_libraries() {
  libraries_root=$1; shift
  for program in "$@"; do chroot "$libraries_root" /usr/bin/ldd "$program"; done |
    awk '/=> \//{print $3}' | sort -u
}

# kernel_modules MODULES-FOLDER VERSION DESTINATION MODULE...: the named modules and what they need,
# unpacked, and a file `order` that lists them as insmod wants them.
kernel_modules() {
  modules_from=$1; modules_version=$2; modules_to=$3; shift 3
  mkdir -p "$modules_to"
  for module in "$@"; do
    modprobe -d "$modules_from" -S "$modules_version" --show-depends "$module" | awk '/^insmod/{print $2}'
  done | awk '!seen[$0]++' > "$WORK/module-paths"
  : > "$modules_to/order"
  while read -r path; do
    name=$(basename "${path%.xz}")
    case $path in *.xz) xz -dc "$path" > "$modules_to/$name" ;; *) cp "$path" "$modules_to/$name" ;; esac
    echo "$name" >> "$modules_to/order"
  done < "$WORK/module-paths"
}
