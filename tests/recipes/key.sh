# key.sh: the ssh key that every machine of the rig lets in as root.
# in: OUT   out: OUT/id (mode 0600), OUT/id.pub
set -eu

mkdir -p "$OUT"
ssh-keygen -q -t ed25519 -N '' -C landfall-rig -f "$OUT/id"
