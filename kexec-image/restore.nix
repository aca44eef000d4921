# What the old system handed over in the archive behind the initrd: who may log in, as which host the
# machine answers, its id and its addresses. Nothing of it comes from a disk, and nothing is written
# to one.
{ lib, pkgs, ... }:
{
  # In stage 1, while the root file system is still empty, so that sshd and networkd find all of it.
  boot.initrd.systemd.services.restore-handed-over = {
    description = "Restore what the old system handed over";
    requiredBy = [ "initrd.target" ];
    before = [
      "initrd.target"
      "initrd-nixos-activation.service"
    ];
    after = [ "initrd-fs.target" ];
    unitConfig.DefaultDependencies = false;
    serviceConfig = {
      Type = "oneshot";
      RemainAfterExit = true;
    };
    # Every part may be absent: a machine without host keys still has addresses.
    script = ''
      root=/sysroot
      mkdir -p -m 0755 $root/etc $root/etc/ssh
      mkdir -p -m 0700 $root/root $root/root/.ssh $root/root/network

      if [ -s /ssh/authorized_keys ]; then
        install -m 0400 /ssh/authorized_keys $root/root/.ssh/authorized_keys
      fi
      for key in /ssh/ssh_host_*; do
        if [ -f "$key" ]; then install -m 0400 "$key" $root/etc/ssh/; fi
      done
      for fact in /*.json; do
        if [ -f "$fact" ]; then install -m 0400 "$fact" $root/root/network/; fi
      done
      if [ -s /machine-id ]; then
        install -m 0444 /machine-id $root/etc/machine-id
      fi
    '';
  };

  systemd.services.restore-network = {
    description = "Give the network cards their old addresses";
    wantedBy = [ "multi-user.target" ];
    wants = [ "network-pre.target" ];
    before = [
      "network-pre.target"
      "systemd-networkd.service"
    ];
    unitConfig = {
      DefaultDependencies = false;
      ConditionPathExists = [
        "/root/network/addrs.json"
        "/root/network/routes-v4.json"
        "/root/network/routes-v6.json"
      ];
    };
    serviceConfig = {
      Type = "oneshot";
      RemainAfterExit = true;
    };
    path = [ pkgs.jq ];
    # Written beside and moved: networkd must not see half a set.
    script = ''
      cd /root/network
      jq -n --slurpfile addrs addrs.json --slurpfile v4 routes-v4.json \
        --slurpfile v6 routes-v6.json -f ${./network.jq} >/run/restored-network
      mkdir -p -m 0755 /run/systemd/network
      for name in $(jq -r 'keys[]' /run/restored-network); do
        jq -j --arg name "$name" '.[$name]' /run/restored-network >"/run/systemd/network/$name"
      done
    '';
  };
}
