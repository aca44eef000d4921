# The installer as a NixOS module: a system that runs from RAM, waits for ssh, and has the tools to
# put another system on the disks. It holds no agent; the controller brings its own.
#
# What the old system hands over at the kexec is restored by restore.nix; how the result is packed
# is in tarball.nix. Import this file to build an image of your own, and add what it lacks.
{
  lib,
  modulesPath,
  pkgs,
  ...
}:
{
  imports = [
    # root and store in RAM, the store's squashfs at the end of the initrd
    (modulesPath + "/installer/netboot/netboot.nix")
    # no manuals, no desktop files
    (modulesPath + "/profiles/minimal.nix")
    ./firmware.nix
    ./restore.nix
    ./tarball.nix
  ];

  # The one sign by which an installer is told from an installed system.
  system.nixos.variant_id = lib.mkDefault "installer";
  system.stateVersion = lib.mkDefault lib.trivial.release;

  environment.systemPackages = [
    # nixos-install, nixos-enter, nixos-generate-config
    pkgs.nixos-install-tools

    # disks
    pkgs.parted
    pkgs.gptfdisk
    pkgs.cryptsetup
    pkgs.lvm2
    pkgs.mdadm
    pkgs.efibootmgr

    # file systems
    pkgs.e2fsprogs
    pkgs.dosfstools
    pkgs.xfsprogs
    pkgs.btrfs-progs

    # what scripts written for other installers look for
    pkgs.iproute2
    pkgs.jq
    pkgs.rsync
  ];
  # Everything but the tools named above would only be weight here.
  system.disableInstallerTools = true;

  # Brings the kernel's part and the tools; ZFS is why the default kernel is kept and not the newest.
  boot.supportedFilesystems = [
    "btrfs"
    "ext4"
    "vfat"
    "xfs"
    "zfs"
  ];
  boot.zfs.forceImportRoot = false;
  # ZFS refuses to start without one; a pool made here is exported before the reboot.
  networking.hostId = lib.mkDefault "1a2dfa11";
  boot.swraid.enable = true;
  # mdadm warns for ever when nobody would get its mail.
  boot.swraid.mdadmConf = "PROGRAM ${pkgs.coreutils}/bin/true";
  # disko makes RAID volumes of LVM, and the module is not loaded by its tools.
  boot.kernelModules = [ "dm-raid" ];

  # The machine is not known: every storage and network driver. firmware.nix has their firmware.
  hardware.enableAllHardware = true;

  boot.initrd.systemd.enable = true;
  # The console is the last way in, and there is nothing on this system to protect from it.
  boot.initrd.systemd.emergencyAccess = true;
  services.getty.autologinUser = "root";
  users.users.root.initialHashedPassword = "";

  boot.kernelParams = [
    # The last one is /dev/console: a rented machine has a serial port, not a screen.
    "console=tty0"
  ]
  ++ lib.optional pkgs.stdenv.hostPlatform.isAarch64 "console=ttyAMA0,115200"
  ++ [
    "console=ttyS0,115200"
    # After a panic the machine comes back with its old system, which is better than nothing.
    "panic=60"
    # Some cards that were already set up hang at a second start.
    "nouveau.modeset=0"
  ];

  services.openssh = {
    enable = true;
    settings = {
      PermitRootLogin = "prohibit-password";
      PasswordAuthentication = false;
      KbdInteractiveAuthentication = false;
    };
    # The old system's host keys are put in place before this; only what is missing is made. All
    # three kinds, because a client remembers one of them and takes another one for an impostor.
    hostKeys = [
      {
        type = "ed25519";
        path = "/etc/ssh/ssh_host_ed25519_key";
      }
      {
        type = "ecdsa";
        path = "/etc/ssh/ssh_host_ecdsa_key";
      }
      {
        type = "rsa";
        bits = 3072;
        path = "/etc/ssh/ssh_host_rsa_key";
      }
    ];
  };

  networking = {
    hostName = lib.mkDefault "nixos-installer";
    useNetworkd = true;
    # Cards for which nothing was handed over.
    useDHCP = true;
    # Keys alone open this machine; a filter would only keep out installs that need a port.
    firewall.enable = false;
  };
  # Answers names for machines with static addresses too: its built-in servers are the last resort.
  services.resolved.enable = true;

  nix.settings = {
    experimental-features = [
      "nix-command"
      "flakes"
    ];
    trusted-users = [ "root" ];
    # A cache that is away must not look like an install that hangs.
    connect-timeout = 5;
    builders-use-substitutes = true;
  };
  nix.channel.enable = false;
  # The store is RAM: an evaluator with a big first heap is killed on a machine of 1 GiB.
  environment.variables.GC_INITIAL_HEAP_SIZE = "1M";
  boot.kernel.sysctl."vm.overcommit_memory" = 1;

  # The records of the old system's crashes stay where they are.
  environment.etc."systemd/pstore.conf".text = ''
    [PStore]
    Unlink=no
  '';
}
