# fixture.sh: the flake whose systems the rig installs: fixture/ and the parts it is made of, taken
# from Debian's packages.
# in: OUT, WORK, RECIPES, INSTALLER_ROOT, WORKSHOP, KERNEL, KEY   out: OUT/flake
set -eu
. "$RECIPES/debian.sh"

flake=$OUT/flake
parts=$flake/parts
workshop=$WORKSHOP/root
mkdir -p "$OUT"
cp -r "$RECIPES/fixture" "$flake"
cp "$KEY/id.pub" "$flake/authorized_keys"

mkdir -p "$parts/busybox/bin" "$parts/bash/bin" "$parts/boot"
cp "$workshop/usr/bin/busybox" "$parts/busybox/bin/"
for applet in $(chroot "$workshop" busybox --list); do
  [ "$applet" = busybox ] || ln -s busybox "$parts/busybox/bin/$applet"
done
cp "$workshop/usr/bin/bash-static" "$parts/bash/bin/bash"

# part NAME ROOT PROGRAM...: programs with their libraries and ld.so, called through small scripts.
# With BASE, what the part of that name has is taken from there, and `needed` says which libraries.
part() {
  part=$parts/$1; root=$2; shift 2
  loader=@out@/lib/ld.so libraries=@out@/lib
  [ -z "$BASE" ] || { loader=@base@/lib/ld.so; libraries=@out@/lib:@base@/lib; }
  mkdir -p "$part/bin" "$part/libexec" "$part/lib"
  for program in "$@"; do
    path=$(chroot "$root" /bin/sh -c "PATH=/usr/sbin:/usr/bin:/sbin:/bin; readlink -f \$(command -v $program)")
    cp -L "$root$path" "$part/libexec/$program"
    for library in $(chroot_libraries "$root" "$path"); do
      [ -z "$BASE" ] || { mkdir -p "$part/needed"; basename "$library" >> "$part/needed/$program"; }
      [ -n "$BASE" ] && [ -e "$parts/$BASE/lib/${library##*/}" ] || cp -L "$root$library" "$part/lib/"
    done
    called "$program" "$program"
  done
  [ -n "$BASE" ] || cp -L "$root/lib64/ld-linux-x86-64.so.2" "$part/lib/ld.so"
}

# called NAME PROGRAM: a script of this name for a program of the part
called() {
  printf '#!@busybox@/bin/sh\nexec %s --argv0 %s --library-path %s @out@/libexec/%s "$@"\n' \
    "$loader" "$1" "$libraries" "$2" > "$part/bin/$1"
  chmod +x "$part/bin/$1"
}

BASE=
part disk-tools "$INSTALLER_ROOT/root" sgdisk partprobe wipefs blkid udevadm mkfs.ext4 mkfs.vfat \
  mount umount mountpoint lsblk mkswap swapon swapoff
BASE=disk-tools
part storage-tools "$INSTALLER_ROOT/root" cryptsetup dmsetup lvm mdadm btrfs mkfs.btrfs
for name in pvcreate vgcreate vgchange vgs lvcreate lvs; do called "$name" lvm; done
BASE=
part dropbear "$workshop" dropbear dropbearkey dropbearconvert
part extlinux "$workshop" extlinux

cp "$workshop/usr/lib/EXTLINUX/gptmbr.bin" "$workshop/usr/lib/systemd/boot/efi/systemd-bootx64.efi" "$parts/boot/"
for module in ldlinux linux libcom32 libutil menu; do
  cp "$workshop/usr/lib/syslinux/modules/bios/$module.c32" "$parts/boot/"
done

mkdir -p "$parts/kernel"
cp "$KERNEL/bzImage" "$parts/kernel/"
kernel_modules "$KERNEL" "$(cat "$KERNEL/version")" "$parts/kernel/modules" \
  virtio_pci virtio_blk virtio_scsi virtio_net virtio-rng ext4 vfat nls_cp437 nls_ascii
# drivers LAYOUT MODULE...: what the layout needs beside those
drivers() {
  drivers=$parts/drivers/$1; shift
  kernel_modules "$KERNEL" "$(cat "$KERNEL/version")" "$drivers" "$@"
  for module in $(cat "$parts/kernel/modules/order"); do
    rm -f "$drivers/$module"
    sed -i "/^$module\$/d" "$drivers/order"
  done
}
drivers luks dm-crypt xts algif_skcipher
drivers lvm dm-mod
drivers mdraid raid1
drivers btrfs btrfs
