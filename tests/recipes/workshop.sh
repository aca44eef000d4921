# workshop.sh: a Debian root file system from which programs are taken: QEMU, nix, busybox, dropbear,
# boot loaders. It is never booted.
# in: OUT, WORK, RECIPES   out: OUT/root
set -eu
. "$RECIPES/debian.sh"

bootstrap "$OUT/root" "bash-static,busybox-static,ca-certificates,dropbear-bin,extlinux,iproute2,nix-bin,openssh-client,openssh-server,ovmf,patchelf,qemu-system-x86,qemu-utils,seabios,syslinux-common,syslinux-efi,systemd-boot-efi"
rm -rf "$OUT/root/var/cache/apt" "$OUT/root/var/lib/apt/lists"
