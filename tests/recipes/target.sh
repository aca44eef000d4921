# target.sh: the disk of a Debian machine that is to be taken over. One ext4 without partitions, so
# that no boot loader is needed here and the installed system's has to come from the installation.
# Logins with the rig's key: root; `op`, who may use sudo without a password; `asked`, whom sudo asks
# for it, and sshd accepts it too: `let me in`; `doer`, who has doas instead.
# in: OUT, WORK, TARGET_ROOT, KERNEL, KEY   out: OUT/disk.raw (2 GiB, sparse)
set -eu

root=$WORK/root
cp -a "$TARGET_ROOT/root" "$root"
version=$(cat "$KERNEL/version")
mkdir -p "$root/usr/lib/modules"
cp -a "$KERNEL/lib/modules/$version" "$root/usr/lib/modules/"
rm -rf "$root"/usr/share/doc "$root"/usr/share/man "$root"/usr/share/locale "$root"/var/log/*.log \
  "$root"/etc/ssh/ssh_host_* "$root"/boot/*

for login in op asked doer; do chroot "$root" useradd --create-home --shell /bin/bash "$login"; done
echo 'asked:let me in' | chroot "$root" chpasswd
echo 'op ALL=(ALL) NOPASSWD:ALL' > "$root/etc/sudoers.d/op"
echo 'asked ALL=(ALL) ALL' > "$root/etc/sudoers.d/asked"
chmod 440 "$root/etc/sudoers.d/op" "$root/etc/sudoers.d/asked"
echo 'permit nopass doer' > "$root/etc/doas.conf"
for home in root home/op home/asked home/doer; do
  mkdir -p "$root/$home/.ssh"
  cp "$KEY/id.pub" "$root/$home/.ssh/authorized_keys"
  chmod 700 "$root/$home/.ssh"
  chmod 600 "$root/$home/.ssh/authorized_keys"
done
for login in op asked doer; do chroot "$root" chown -R "$login:$login" "/home/$login"; done

# sshd's keys are made at first boot: each machine of the rig is somebody of its own. Only the RSA key
# comes with the disk, because making one takes 10 s under TCG.
ssh-keygen -q -t rsa -b 3072 -N '' -C root@target -f "$root/etc/ssh/ssh_host_rsa_key"
mkdir -p "$root/etc/systemd/system/ssh.service.d"
printf '[Service]\nExecStartPre=\nExecStartPre=/usr/bin/ssh-keygen -A\nExecStartPre=/usr/sbin/sshd -t\n' \
  > "$root/etc/systemd/system/ssh.service.d/host-keys.conf"
printf 'UseDNS no\nPasswordAuthentication no\nMatch User asked\n  PasswordAuthentication yes\n' > "$root/etc/ssh/sshd_config.d/rig.conf"

printf '[Match]\nType=ether\n\n[Network]\nDHCP=yes\n' > "$root/etc/systemd/network/80-dhcp.network"
wants=$root/etc/systemd/system/multi-user.target.wants
ln -sf /usr/lib/systemd/system/systemd-networkd.service "$wants/"
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
  e2scrub_reap.service fstrim.timer systemd-networkd-wait-online.service getty@tty1.service \
  serial-getty@ttyS0.service modprobe@.service sys-kernel-config.mount sys-kernel-debug.mount \
  sys-kernel-tracing.mount sys-fs-fuse-connections.mount dev-hugepages.mount dev-mqueue.mount \
  proc-sys-fs-binfmt_misc.automount systemd-binfmt.service systemd-pstore.service; do
  ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
# Nobody attacks this machine: what a service may not do is made of namespaces and of filters that the
# kernel translates at each start, which is slow under TCG.
find "$root/usr/lib/systemd/system" -name '*.service' -type f -exec sed -i -E \
  '/^(SystemCall|Restrict(Address|Name|Real|SUID|File)|IPAddress|Protect|Private|Device|MemoryDeny|Lock|NoNew|CapabilityBounding)[A-Za-z]*=/d' {} +
# drivers for what the machine has and nobody uses
rm -rf "$root/usr/lib/modules/$version"/kernel/drivers/ata "$root/usr/lib/modules/$version"/kernel/arch/x86/kvm
depmod -b "$root" "$version"
ln -sf multi-user.target "$root/usr/lib/systemd/system/default.target"
echo '/dev/vda / ext4 defaults 0 1' > "$root/etc/fstab"
echo target > "$root/etc/hostname"
printf '127.0.0.1 localhost target\n::1 localhost\n' > "$root/etc/hosts"
: > "$root/etc/machine-id"
# what systemd rebuilds after an update of /usr is not rebuilt at first boot
touch -d '+1 day' "$root/etc/.updated" "$root/var/.updated"

mkdir -p "$OUT"
truncate -s 2G "$OUT/disk.raw"
mkfs.ext4 -q -F -L target -d "$root" "$OUT/disk.raw"
