# guard.sh: the last look before anything is let in. Ends, and the whole target with it, unless nothing
# on this machine but the target's own disks can come to harm.
set -eu

refuse() {
  echo "refusing to start a target: $1" >&2
  exit 1
}

[ $$ = 1 ] || refuse "this is not PID 1 of a namespace"

# CAP_SYS_MODULE 16, CAP_SYS_RAWIO 17, CAP_SYS_BOOT 22, CAP_MKNOD 27
forbidden=$((1 << 16 | 1 << 17 | 1 << 22 | 1 << 27))
for set in CapInh CapPrm CapEff CapBnd CapAmb; do
  value=$(sed -n "s/^$set:[[:space:]]*/0x/p" /proc/self/status)
  [ -n "$value" ] || refuse "$set cannot be read"
  [ $((value & forbidden)) = 0 ] || refuse "$set is $value"
done

[ "$(stat -f -c %T /dev)" = tmpfs ] || refuse "/dev is not the target's own"
found=0
for node in $(find / -xdev -type b; find /dev /run /tmp -type b); do
  case $node in /dev/rig[a-z]) ;; *) refuse "there is a block device $node" ;; esac
  [ "$(stat -c %t "$node")" = 7 ] || refuse "$node is not a loop device"
  found=$((found + 1))
done
[ $found = 2 ] || refuse "there are $found disks"

[ ! -f /proc/sysrq-trigger ] || refuse "sysrq is in reach"
[ ! -w /proc/sys/kernel/sysrq ] || refuse "the settings of this host's kernel are in reach"

# a node that the device cgroup lets nobody open cannot be made either
if mknod /run/forbidden b 7 0 2> /dev/null; then refuse "devices can be made"; fi

while read -r _ _ _ _ place _ rest; do
  case ${rest#*- } in
    overlay\ * | proc\ * | sysfs\ * | tmpfs\ * | devpts\ *) ;;
    *) refuse "$place is ${rest#*- }" ;;
  esac
done < /proc/self/mountinfo

exec /usr/sbin/sshd -D -e -f /etc/rig/sshd_config
