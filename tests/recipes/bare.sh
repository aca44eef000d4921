# bare.sh: the disk of a machine that has next to nothing: busybox's init, some of its applets, dash
# and sshd. No systemd, and none of tar, cpio, gzip, xz, setsid, curl, wget, nc, base64, bash, python.
#
# The shell is dash, because busybox's own runs every applet it was built with, linked or not.
# in: OUT, WORK, RECIPES, WORKSHOP, BOOT, KEY   out: OUT/disk.raw (1 GiB, sparse)
set -eu
. "$RECIPES/debian.sh"

workshop=$WORKSHOP/root
root=$WORK/root
mkdir -p "$root/usr/bin" "$root/usr/lib/busybox" "$root/usr/lib64" "$root/usr/lib/openssh" \
  "$root/etc/ssh" "$root/root/.ssh" "$root/dev" "$root/proc" "$root/sys" "$root/run" "$root/tmp" \
  "$root/var/empty" "$root/var/log" "$root/var/tmp"
for link in bin:usr/bin sbin:usr/bin usr/sbin:bin lib:usr/lib lib64:usr/lib64; do
  ln -s "${link#*:}" "$root/${link%%:*}"
done
chmod 1777 "$root/tmp" "$root/var/tmp"

cp "$workshop/usr/bin/busybox" "$root/usr/lib/busybox/multi"
for applet in [ basename cat chmod chown chroot cp cut date dd df dirname dmesg du echo env expr false \
  find free grep head hostname id init insmod ip kill killall ln ls lsmod mkdir mknod mktemp mount mv \
  od pidof poweroff printf ps pwd readlink reboot rm rmdir sed sleep sort stat sync tail tee test \
  touch tr true udhcpc umount uname uniq uptime wc whoami xargs; do
  chroot "$workshop" busybox --list | grep -qxF "$applet"
  ln -s ../lib/busybox/multi "$root/usr/bin/$applet"
done

# take PROGRAM...: a program, to the place it has in Debian, and its libraries
take() {
  for program in "$@"; do
    mkdir -p "$root$(dirname "$program")"
    cp -L "$workshop$program" "$root$program"
    for library in $(chroot_libraries "$workshop" "$program"); do
      mkdir -p "$root$(dirname "$library")"
      cp -L "$workshop$library" "$root$library"
    done
  done
}
# nohup, because busybox was built without it and `kexec/run` calls it
take /usr/bin/dash /usr/bin/nohup /usr/sbin/sshd /usr/bin/ssh-keygen
for helper in "$workshop"/usr/lib/openssh/sshd-*; do take "${helper#"$workshop"}"; done
cp -L "$workshop/lib64/ld-linux-x86-64.so.2" "$root/usr/lib64/"
ln -s dash "$root/usr/bin/sh"
cp -r "$BOOT/modules" "$root/usr/lib/drivers"

cp "$RECIPES/bare/rc" "$RECIPES/bare/lease" "$root/etc/"
printf '::sysinit:/etc/rc\n::respawn:/usr/sbin/sshd -D -e\n::ctrlaltdel:/sbin/reboot\n' > "$root/etc/inittab"
printf 'root:x:0:0:root:/root:/bin/sh\nsshd:x:74:74::/var/empty:/bin/false\n' > "$root/etc/passwd"
printf 'root:x:0:\nsshd:x:74:\n' > "$root/etc/group"
printf 'root:*:1::::::\nsshd:!:1::::::\n' > "$root/etc/shadow"
chmod 600 "$root/etc/shadow"
echo /bin/sh > "$root/etc/shells"
echo bare > "$root/etc/hostname"
printf 'ID=bare\nNAME="Bare"\nPRETTY_NAME="Bare target of the rig"\n' > "$root/etc/os-release"
printf 'PermitRootLogin prohibit-password\nPasswordAuthentication no\nUseDNS no\nUsePAM no\n' > "$root/etc/ssh/sshd_config"
cp "$KEY/id.pub" "$root/root/.ssh/authorized_keys"
chmod 700 "$root/root" "$root/root/.ssh" "$root/var/empty"
chmod 600 "$root/root/.ssh/authorized_keys"

mkdir -p "$OUT"
truncate -s 1G "$OUT/disk.raw"
mkfs.ext4 -q -F -L bare -d "$root" "$OUT/disk.raw"
