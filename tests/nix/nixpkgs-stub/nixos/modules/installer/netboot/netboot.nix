{ config, pkgs, ... }:
{
  system.build.netbootRamdisk = pkgs.runCommand "initrd" {
    store = config.system.build.toplevel;
  } "";
}
