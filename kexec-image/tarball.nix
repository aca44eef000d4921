# Packs the installer in the layout that tools for kexec images expect:
#
#   kexec/run      starts it          kexec/bzImage   the kernel, under this name on every machine
#   kexec/kexec    static kexec-tools kexec/initrd    stage 1 with the whole store behind it
#   kexec/ip       static iproute2
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.landfall.image;
  inherit (config.system) build;

  commandLine = "init=${build.toplevel}/init ${toString config.boot.kernelParams}";

  run = pkgs.writeTextFile {
    name = "run";
    executable = true;
    text =
      builtins.replaceStrings [ "@commandLine@" ] [ (lib.escapeShellArg commandLine) ]
        (builtins.readFile ./run.sh);
  };
in
{
  options.landfall.image = {
    name = lib.mkOption {
      type = lib.types.str;
      default = "landfall-kexec-installer";
      description = "First part of the tarball's file name; the system and `.tar.gz` follow.";
    };
    budgetMiB = lib.mkOption {
      type = lib.types.ints.positive;
      default = 400;
      description = ''
        Size of kernel and initrd together that is still accepted, in MiB. Both are held in RAM
        twice while the machine changes over, so that this decides how small a machine may be.
      '';
    };
  };

  config.system.build = {
    kexecInstallerTree = pkgs.linkFarm "kexec-tree" {
      inherit run;
      bzImage = "${build.kernel}/${config.system.boot.loader.kernelFile}";
      initrd = "${build.netbootRamdisk}/initrd";
      kexec = "${pkgs.pkgsStatic.kexec-tools}/bin/kexec";
      # iptables would only serve one feature of tc, and does not link statically
      ip = "${pkgs.pkgsStatic.iproute2.override { iptables = null; }}/bin/ip";
    };

    # The attribute has the name that images of this layout already have elsewhere.
    kexecInstallerTarball =
      pkgs.runCommand "${cfg.name}-${pkgs.stdenv.hostPlatform.system}"
        {
          passthru.fileName = "${cfg.name}-${pkgs.stdenv.hostPlatform.system}.tar.gz";
        }
        ''
          size=$(cat ${build.kexecInstallerTree}/bzImage ${build.kexecInstallerTree}/initrd | wc -c)
          if [ "$size" -gt $((${toString cfg.budgetMiB} << 20)) ]; then
            echo "error: refusing to pack kernel and initrd of $((size >> 20)) MiB" >&2
            echo "caused by: the budget is ${toString cfg.budgetMiB} MiB" >&2
            echo "hint: raise landfall.image.budgetMiB, or leave something out" >&2
            exit 1
          fi
          mkdir -p "$out" kexec
          cp -rL ${build.kexecInstallerTree}/. kexec/
          chmod -R u+w kexec
          # The initrd is compressed already: a higher level costs minutes and wins nothing.
          tar --sort=name --mtime=@1 --owner=0 --group=0 --numeric-owner -c kexec \
            | gzip -n -1 >"$out/${cfg.name}-${pkgs.stdenv.hostPlatform.system}.tar.gz"
        '';
  };
}
