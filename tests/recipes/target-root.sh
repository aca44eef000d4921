# target-root.sh: the root file system of the machines that are taken over: a small Debian with
# systemd and sshd, sudo and doas for logins that are not root's.
# in: OUT, WORK, RECIPES   out: OUT/root
set -eu
. "$RECIPES/debian.sh"

bootstrap "$OUT/root" "systemd,systemd-sysv,udev,dbus,kmod,iproute2,openssh-server,opendoas,sudo,cpio,gzip,iputils-ping,procps"
rm -rf "$OUT/root/var/cache/apt" "$OUT/root/var/lib/apt/lists"
