# installer-root.sh: the root file system of the stand-in installer: sshd, nix with its daemon and the
# tools that disko scripts call. No nixos-install: what it does, the agent has to do by itself.
# in: OUT, WORK, RECIPES   out: OUT/root
set -eu
. "$RECIPES/debian.sh"

bootstrap "$OUT/root" "systemd,systemd-sysv,udev,dbus,kmod,iproute2,openssh-server,nix-bin,bash-static,gdisk,fdisk,parted,dosfstools,e2fsprogs,btrfs-progs,xfsprogs,cryptsetup-bin,lvm2,mdadm,zstd,xz-utils,procps,psmisc,less,curl,ca-certificates"
rm -rf "$OUT/root/var/cache/apt" "$OUT/root/var/lib/apt/lists"
