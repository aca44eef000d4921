# The options of NixOS that the image sets, with the types they have there.
{
  config,
  lib,
  pkgs,
  settings,
  ...
}:
let
  option = type: lib.mkOption { inherit type; };
  withDefault = type: default: lib.mkOption { inherit type default; };
  inherit (lib.types)
    anything
    attrs
    attrsWithKeys
    bool
    list
    str
    ;
  unit = [
    "after"
    "before"
    "description"
    "environment"
    "path"
    "requiredBy"
    "requires"
    "script"
    "serviceConfig"
    "unitConfig"
    "wantedBy"
    "wants"
  ];
in
{
  options = {
    boot = {
      initrd.systemd = {
        emergencyAccess = option anything;
        enable = option bool;
        services = option (attrsWithKeys unit);
      };
      kernel.sysctl = option attrs;
      kernelModules = option list;
      kernelParams = withDefault list [ ];
      supportedFilesystems = option list;
      swraid.enable = option bool;
      swraid.mdadmConf = option str;
      zfs.forceImportRoot = option bool;
    };
    environment = {
      etc = option attrs;
      systemPackages = withDefault list [ ];
      variables = option attrs;
    };
    hardware.enableAllHardware = option bool;
    hardware.enableRedistributableFirmware = option bool;
    hardware.firmware = withDefault list [ ];
    networking = {
      firewall.enable = option bool;
      hostId = option str;
      hostName = option str;
      useDHCP = option bool;
      useNetworkd = option bool;
    };
    nix.channel.enable = option bool;
    nix.settings = option attrs;
    services = {
      getty.autologinUser = option str;
      openssh.enable = option bool;
      openssh.hostKeys = option list;
      openssh.settings = option attrs;
      resolved.enable = option bool;
    };
    system = {
      boot.loader.kernelFile = withDefault str (
        if pkgs.stdenv.hostPlatform.isAarch64 then "Image" else "bzImage"
      );
      build = option attrs;
      disableInstallerTools = option bool;
      nixos.variant_id = option str;
      stateVersion = option str;
    };
    systemd.services = option (attrsWithKeys unit);
    users.users = option attrs;
  };

  config.system.build = {
    kernel = pkgs.runCommand "linux" { } "";
    toplevel = pkgs.runCommand "nixos-system-${config.networking.hostName}" {
      inherit settings;
      packages = map toString (config.environment.systemPackages ++ config.hardware.firmware);
      scripts = map (service: service.script) (
        builtins.attrValues config.systemd.services
        ++ builtins.attrValues config.boot.initrd.systemd.services
      );
    } "";
  };
}
