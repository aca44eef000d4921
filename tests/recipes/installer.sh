# installer.sh: the stand-in installer, in the layout of the stock kexec tarball: a NixOS-shaped
# system made from Debian's packages.
# in: OUT, WORK, RECIPES, INSTALLER_ROOT, WORKSHOP, KERNEL, KEXEC, KEY
# out: OUT/kexec.tar.gz (kexec/{run,bzImage,initrd,kexec,ip,ip.d}); to boot it without a kexec:
#      OUT/kernel, OUT/initrd (lets the rig's key in)
set -eu
. "$RECIPES/debian.sh"

root=$WORK/root
cp -a "$INSTALLER_ROOT/root" "$root"
version=$(cat "$KERNEL/version")
mkdir -p "$root/usr/lib/modules"
cp -a "$KERNEL/lib/modules/$version" "$root/usr/lib/modules/"

# an installer lives in memory: no documentation, no interpreters, no package lists
rm -rf "$root"/boot/* "$root"/usr/share/doc "$root"/usr/share/man "$root"/usr/share/locale \
  "$root"/usr/share/info "$root"/usr/share/lintian "$root"/usr/share/bash-completion \
  "$root"/usr/share/zsh "$root"/usr/share/fish "$root"/usr/share/perl* "$root"/usr/share/i18n \
  "$root"/usr/share/bug "$root"/usr/lib/udev/hwdb.* "$root/usr/lib/$TRIPLET/gconv" \
  "$root/usr/lib/$TRIPLET"/perl* "$root/usr/lib/$TRIPLET"/libperl* "$root"/usr/bin/perl* \
  "$root"/usr/lib/python3* "$root"/usr/bin/python3* "$root"/var/cache/* "$root"/var/log/*.log \
  "$root"/etc/apt "$root"/var/lib/apt "$root"/etc/ssh/ssh_host_*

rm -f "$root/etc/os-release" "$root/usr/lib/os-release"
cat > "$root/etc/os-release" <<END
ID=nixos
ID_LIKE=debian
NAME="NixOS-shaped installer"
PRETTY_NAME="NixOS-shaped installer, made from Debian for tests"
VERSION_ID="25.11"
VARIANT="Installer"
VARIANT_ID=installer
END
mkdir -p "$root/etc/nix" "$root/nix" "$root/mnt" "$root/var/cache/rig"
cat > "$root/etc/nix/nix.conf" <<END
experimental-features = nix-command flakes
build-users-group =
substituters =
sandbox = false
extra-system-features = rig-installer
END

# a binary cache without paths, for systems that name it as theirs
echo 'StoreDir: /nix/store' > "$root/var/cache/rig/nix-cache-info"

for program in nixos-generate-config nixos-facter; do
  cp "$RECIPES/installer/$program" "$root/usr/bin/"
done

units=$root/etc/systemd/system
mkdir -p "$units/multi-user.target.wants" "$units/ssh.service.d" "$root/etc/systemd/network"
printf '[Match]\nType=ether\n\n[Network]\nDHCP=yes\n' > "$root/etc/systemd/network/80-dhcp.network"
ln -sf /usr/lib/systemd/system/systemd-networkd.service "$units/multi-user.target.wants/"
# not behind the whole boot: login is what everybody waits for
cat > "$units/ssh.service.d/early.conf" <<'END'
[Unit]
DefaultDependencies=no
After=local-fs.target

[Service]
ExecStartPre=
ExecStartPre=/bin/mkdir -p /run/sshd
ExecStartPre=/bin/sh -c "[ -e /etc/ssh/ssh_host_ed25519_key ] || ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key"
END
# the two keys that NixOS knows of, whatever the old system has
printf 'PermitRootLogin prohibit-password\nPasswordAuthentication no\nUseDNS no\nUsePAM no\nHostKey /etc/ssh/ssh_host_%s_key\nHostKey /etc/ssh/ssh_host_%s_key\n' \
  rsa ed25519 > "$root/etc/ssh/sshd_config.d/rig.conf"
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
  e2scrub_reap.service fstrim.timer systemd-networkd-wait-online.service getty@tty1.service \
  lvm2-monitor.service systemd-timesyncd.service nix-daemon.socket nix-daemon.service \
  mdmonitor-oneshot.timer mdcheck_start.timer mdcheck_continue.timer; do
  ln -sf /dev/null "$units/$unit"
done
ln -sf multi-user.target "$root/usr/lib/systemd/system/default.target"
echo nixos-installer > "$root/etc/hostname"
: > "$root/etc/machine-id"
: > "$root/etc/fstab"
# what systemd rebuilds after an update of /usr is not rebuilt at first boot
touch -d '+1 day' "$root/etc/.updated" "$root/var/.updated"

tree=$WORK/tree
mkdir -p "$tree/bin" "$tree/proc" "$tree/sys" "$tree/dev" "$tree/new" "$tree/below" "$tree/rw"
mksquashfs "$root" "$tree/root.squashfs" -comp zstd -Xcompression-level 9 -noappend -no-progress -quiet -no-xattrs
cp "$WORKSHOP/root/usr/bin/busybox" "$tree/bin/"
cp "$RECIPES/installer/init" "$tree/init"
kernel_modules "$KERNEL" "$version" "$tree/modules" loop squashfs overlay

mkdir -p "$OUT" "$WORK/kexec" "$WORK/extra/ssh"
# not compressed: nearly all of it is squashfs
(cd "$tree" && find . | cpio -o -H newc --quiet) > "$WORK/kexec/initrd"
cp "$KEY/id.pub" "$WORK/extra/ssh/authorized_keys"
(cat "$WORK/kexec/initrd"; cd "$WORK/extra" && find . | cpio -o -H newc --quiet) > "$OUT/initrd"
cp "$KERNEL/bzImage" "$OUT/kernel"
cp "$KERNEL/bzImage" "$WORK/kexec/bzImage"
cp "$KEXEC/kexec" "$RECIPES/installer/run" "$WORK/kexec/"

# the stock image's ip is one static file; here it takes its libraries along, to run on any target
workshop=$WORKSHOP/root
mkdir "$WORK/kexec/ip.d"
cp -L "$workshop/usr/sbin/ip" "$WORK/kexec/ip.d/ip" 2>/dev/null || cp -L "$workshop/usr/bin/ip" "$WORK/kexec/ip.d/ip"
for library in $(chroot_libraries "$workshop" "$(chroot "$workshop" /bin/sh -c 'command -v ip')"); do
  cp -L "$workshop$library" "$WORK/kexec/ip.d/"
done
cp -L "$workshop/lib64/ld-linux-x86-64.so.2" "$WORK/kexec/ip.d/ld.so"
cat > "$WORK/kexec/ip" <<'END'
#!/bin/sh
libraries=$(dirname "$(readlink -f "$0")")/ip.d
exec "$libraries/ld.so" --library-path "$libraries" "$libraries/ip" "$@"
END
chmod +x "$WORK/kexec/ip"
tar -C "$WORK" --owner=0 --group=0 -cf - kexec | gzip -1 > "$OUT/kexec.tar.gz"
