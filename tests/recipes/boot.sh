# boot.sh: kernel and initramfs with which the target disks are booted directly. The initramfs is a
# busybox that loads the disk's driver and hands over; Debian's own takes 10 s longer under TCG.
# in: OUT, WORK, RECIPES, KERNEL, WORKSHOP   out: OUT/kernel, OUT/initrd, OUT/modules
set -eu
. "$RECIPES/debian.sh"

version=$(cat "$KERNEL/version")
tree=$WORK/tree
mkdir -p "$OUT" "$tree/bin" "$tree/proc" "$tree/sys" "$tree/dev" "$tree/new"
cp "$KERNEL/vmlinux" "$OUT/kernel"
cp "$WORKSHOP/root/usr/bin/busybox" "$tree/bin/"
kernel_modules "$KERNEL" "$version" "$tree/modules" virtio_pci virtio_blk ext4
kernel_modules "$KERNEL" "$version" "$OUT/modules" virtio_net virtio-rng

cat > "$tree/init" <<'END'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module"; done < /modules/order
until [ -b /dev/vda ]; do sleep 0.1; done
mount -t ext4 /dev/vda /new || exec sh
for kept in dev proc sys; do mount --move "/$kept" "/new/$kept"; done
exec switch_root /new /sbin/init
END
chmod +x "$tree/init"
(cd "$tree" && find . | cpio -o -H newc --quiet | zstd -q -10) > "$OUT/initrd"
