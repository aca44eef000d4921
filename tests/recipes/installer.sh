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

# Drivers of the rig's machines and of what disko scripts make, and not compressed: a module of xz takes
# up to two seconds to load under TCG.
drivers=$KERNEL/lib/modules/$version
# shellcheck disable=SC2046 # names without spaces
kernel_modules "$KERNEL" "$version" "$WORK/modules" virtio_net virtio_blk virtio_scsi virtio-rng sd_mod \
  nvme loop nbd zram tun veth overlay squashfs fuse \
  $(cd "$drivers/kernel" && find arch/x86/crypto crypto drivers/md fs/btrfs fs/fat fs/nls fs/xfs \
    -name '*.ko.xz' ! -name tcrypt.ko.xz -exec basename -a -s .ko.xz {} +)
rm "$WORK/modules/order"
mkdir -p "$root/usr/lib/modules/$version/kernel"
mv "$WORK/modules"/* "$root/usr/lib/modules/$version/kernel/"
cp "$drivers"/modules.builtin* "$drivers/modules.order" "$root/usr/lib/modules/$version/"
depmod -b "$root" "$version"

# an installer lives in memory: no documentation, no interpreters, no package lists and managers
rm -rf "$root"/boot/* "$root"/usr/share/doc "$root"/usr/share/man "$root"/usr/share/locale \
  "$root"/usr/share/info "$root"/usr/share/lintian "$root"/usr/share/bash-completion \
  "$root"/usr/share/zsh "$root"/usr/share/fish "$root"/usr/share/perl* "$root"/usr/share/i18n \
  "$root"/usr/share/bug "$root"/usr/lib/udev/hwdb.* "$root/usr/lib/$TRIPLET/gconv" \
  "$root/usr/lib/$TRIPLET"/perl* "$root/usr/lib/$TRIPLET"/libperl* "$root"/usr/bin/perl* \
  "$root"/usr/lib/python3* "$root"/usr/bin/python3* "$root"/var/cache/* "$root"/var/log/*.log \
  "$root"/etc/apt "$root"/var/lib/apt "$root"/var/lib/dpkg "$root"/usr/lib/apt "$root"/usr/bin/sqv \
  "$root"/usr/bin/apt* "$root"/usr/bin/dpkg* \
  "$root/usr/lib/$TRIPLET"/libapt-* "$root"/usr/share/zoneinfo "$root"/etc/ssh/ssh_host_* \
  "$root"/usr/sbin/xfs_scrub "$root/usr/lib/$TRIPLET"/libicu* "$root/usr/lib/$TRIPLET"/libgio-* \
  "$root/usr/lib/$TRIPLET"/libdb-* "$root"/usr/lib/systemd/systemd-networkd

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

# Nothing starts but what an installer needs: a process more costs a tenth of a second under TCG. Of the
# rest, dbus and logind start when they are called.
units=$root/etc/systemd/system
stock=$root/usr/lib/systemd/system
rm -rf "$units"/* "$stock"/*.wants "$root"/usr/lib/systemd/system-generators/* \
  "$root/usr/lib/tmpfiles.d/systemd-nologin.conf"
# wants TARGET UNIT...
wants() {
  wants=$units/$1.wants; shift
  mkdir -p "$wants"
  for unit in "$@"; do ln -s "/usr/lib/systemd/system/$unit" "$wants/"; done
}
wants sysinit.target systemd-journald.service systemd-udevd.service systemd-udev-trigger.service \
  systemd-tmpfiles-setup.service
wants sockets.target dbus.socket systemd-journald.socket systemd-journald-dev-log.socket \
  systemd-udevd-control.socket systemd-udevd-kernel.socket
wants multi-user.target ssh.service
# called for by others: memory upon memory, and drivers that are not there
for unit in tmp.mount modprobe@.service nix-daemon.socket nix-daemon.service; do
  ln -s /dev/null "$units/$unit"
done
# What a service may not do is made of namespaces and of filters that the kernel translates, at each
# start anew. Nobody attacks this machine.
find "$stock" -name '*.service' -type f -exec sed -i -E \
  '/^(SystemCall|Restrict(Address|Name|Real|SUID|File)|IPAddress|Protect|Private|Device|MemoryDeny|Lock|NoNew|CapabilityBounding)[A-Za-z]*=/d' {} +

# disks and network: with the events of other devices nobody does anything
mkdir -p "$units/systemd-udev-trigger.service.d" "$root/etc/systemd/system.conf.d" \
  "$root/etc/systemd/journald.conf.d"
cat > "$units/systemd-udev-trigger.service.d/few.conf" <<'END'
[Service]
ExecStart=
ExecStart=udevadm trigger --action=add --subsystem-match=block --subsystem-match=net --subsystem-match=pci --subsystem-match=virtio
END
printf '[Manager]\nShowStatus=auto\n' > "$root/etc/systemd/system.conf.d/rig.conf"
printf '[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\n' > "$root/etc/systemd/journald.conf.d/rig.conf"

# not behind the whole boot: login is what everybody waits for, and the network is up already
cat > "$units/ssh.service" <<'END'
[Unit]
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target
Wants=ssh-key.service
After=ssh-key.service

[Service]
Type=notify
ExecStart=/usr/sbin/sshd -D
KillMode=process
Restart=on-failure
RuntimeDirectory=sshd
END
cat > "$units/ssh-key.service" <<'END'
[Unit]
DefaultDependencies=no
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key
END
# the two keys that NixOS knows of, whatever the old system has
printf 'PermitRootLogin prohibit-password\nPasswordAuthentication no\nUseDNS no\nUsePAM no\nHostKey /etc/ssh/ssh_host_%s_key\nHostKey /etc/ssh/ssh_host_%s_key\n' \
  rsa ed25519 > "$root/etc/ssh/sshd_config.d/rig.conf"
ln -sf multi-user.target "$root/usr/lib/systemd/system/default.target"
echo nixos-installer > "$root/etc/hostname"
: > "$root/etc/machine-id"
: > "$root/etc/fstab"
# what systemd rebuilds after an update of /usr is not rebuilt at first boot
touch -d '+1 day' "$root/etc/.updated" "$root/var/.updated"

tree=$WORK/tree
mkdir -p "$tree/bin" "$tree/proc" "$tree/sys" "$tree/dev" "$tree/new" "$tree/below" "$tree/rw"
# lz4 takes one second of a processor less until login, and 18 MB more; they cost more than that on the way
mksquashfs "$root" "$tree/root.squashfs" -comp zstd -Xcompression-level 15 -noappend -no-progress -quiet -no-xattrs
cp "$WORKSHOP/root/usr/bin/busybox" "$tree/bin/"
for applet in chmod cp insmod install ip mkdir mknod mount sh switch_root udhcpc; do
  ln -s busybox "$tree/bin/$applet"
done
cp "$RECIPES/installer/init" "$RECIPES/installer/lease" "$tree/"
kernel_modules "$KERNEL" "$version" "$tree/modules" loop squashfs overlay virtio_net

mkdir -p "$OUT" "$WORK/kexec" "$WORK/extra/ssh"
# not compressed: nearly all of it is squashfs
(cd "$tree" && find . | cpio -o -H newc --quiet) > "$WORK/kexec/initrd"
cp "$KEY/id.pub" "$WORK/extra/ssh/authorized_keys"
(cat "$WORK/kexec/initrd"; cd "$WORK/extra" && find . | cpio -o -H newc --quiet) > "$OUT/initrd"
cp "$KERNEL/vmlinux" "$OUT/kernel"
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
