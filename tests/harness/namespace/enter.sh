# enter.sh: becomes PID 1 of a target made of namespaces. Runs as root in network, mount, PID, UTS and
# IPC namespaces that it shares with nobody, and ends as sshd on the target's own loopback.
#
# in: ROOT     the installer's root file system, read only
#     LOWER    files laid over it
#     MEMORY   an empty folder, covered here
#     DISKS    "NAME MAJOR:MINOR SECTORS" for each disk, in lines
#     WITNESS  a folder for what scripts tell the rig; it outlives the target's power
#     GROUP    a folder of the device cgroup, empty of rules that allow
#     RUN_SIZE how much fits into /run
#
# Whatever is about to run can reach no device but DISKS, and cannot boot anything: the device cgroup
# forbids the others to be opened or made, and the capabilities for it are gone for good. `guard.sh`
# looks whether that is so, and ends everything if it is not.
set -eu

mount -t tmpfs -o mode=755 tmpfs "$MEMORY"
root=$MEMORY/root
mkdir "$MEMORY/upper" "$MEMORY/work" "$root"
mount -t overlay -o "lowerdir=$LOWER:$ROOT,upperdir=$MEMORY/upper,workdir=$MEMORY/work" target "$root"
mkdir -p "$root/nix" "$root/mnt" "$root/var/witness" "$root/var/empty" "$root/var/old" "$root/run"

mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro,nosuid,nodev,noexec "$root/proc/sys"
# each start is a boot of its own
cat /proc/sys/kernel/random/uuid > "$MEMORY/boot_id"
mount --bind "$MEMORY/boot_id" "$root/proc/sys/kernel/random/boot_id"
mount -o remount,bind,ro,nosuid,nodev,noexec "$root/proc/sys/kernel/random/boot_id"
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
mount -t tmpfs -o "mode=755,nosuid,nodev,size=$RUN_SIZE" tmpfs "$root/run"
mount -t tmpfs -o mode=1777,nosuid,nodev,size=256m tmpfs "$root/tmp"
# what scripts tell the rig, out of reach of what formats and unmounts
mount --bind "$WITNESS" "$root/var/witness"

mount -t tmpfs -o mode=755,nosuid,size=1m tmpfs "$root/dev"
node() { mknod -m "$2" "$root/dev/$1" c "$3" "$4"; }
node null 666 1 3
node zero 666 1 5
node full 666 1 7
node random 666 1 8
node urandom 666 1 9
node tty 666 5 0
# a letter written to it would reboot this host, whatever the writer's capabilities
if [ -e "$root/proc/sysrq-trigger" ]; then
  mount --bind "$root/dev/null" "$root/proc/sysrq-trigger"
fi
mkdir -p "$root/dev/pts" "$root/dev/shm" "$root/dev/disk/by-id"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777,nosuid,nodev,size=64m tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"

# the kernel's account of block devices, with the target's disks and nobody else's
for place in block class/block dev/block; do
  mount -t tmpfs -o mode=755,nosuid,nodev,noexec,size=1m tmpfs "$root/sys/$place"
done
echo "$DISKS" | while read -r name numbers sectors; do
  mknod -m 600 "$root/dev/$name" b "${numbers%:*}" "${numbers#*:}"
  ln -s "../../$name" "$root/dev/disk/by-id/landfall-rig-$name"
  sys=$root/sys/block/$name
  mkdir -p "$sys/slaves" "$sys/holders" "$sys/queue"
  echo "$numbers" > "$sys/dev"
  echo "$sectors" > "$sys/size"
  echo 0 > "$sys/ro"
  echo 0 > "$sys/removable"
  echo 0 > "$sys/queue/rotational"
  echo "rig-$name" > "$sys/serial"
  ln -s "../../block/$name" "$root/sys/class/block/$name"
  ln -s "../../block/$name" "$root/sys/dev/block/$numbers"
  echo "b $numbers rw" > "$GROUP/devices.allow"
done
for place in block class/block dev/block; do
  mount -o remount,bind,ro,nosuid,nodev,noexec "$root/sys/$place"
done
for device in '1:3' '1:5' '1:7' '1:8' '1:9' '5:0' '5:2' '136:*'; do
  echo "c $device rw" > "$GROUP/devices.allow"
done
echo 0 > "$GROUP/tasks"

hostname target
ip link set lo up
# what is under way when a connection is lost is what a modest link holds, however busy this host is
echo '4096 65536 131072' > /proc/sys/net/ipv4/tcp_rmem
echo '4096 16384 131072' > /proc/sys/net/ipv4/tcp_wmem
cd "$root"
pivot_root . var/old
exec chroot . /bin/sh -euc '
  umount -l /var/old
  mkdir -p /run/sshd
  exec setpriv --no-new-privs --bounding-set=-sys_boot,-mknod,-sys_module,-sys_rawio,-sys_time \
    /bin/sh /etc/rig/guard.sh
'
