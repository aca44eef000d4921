# The kexec image for the system of `pkgs`.
#
#   nix-build -E 'import ./kexec-image { pkgs = import <nixpkgs> { }; }' -A tarball
#
# `modules` are put on top of the installer: drivers, keys, a name of its own.
{
  pkgs,
  lib ? pkgs.lib,
  modules ? [ ],
  ...
}:
let
  installer = pkgs.nixos ([ ./module.nix ] ++ lib.toList modules);
  inherit (installer.config.system) build;
in
{
  # A directory with the one file `<fileName>`, ready for `--kexec`.
  tarball = build.kexecInstallerTarball;
  # The same, unpacked: run, bzImage, initrd, kexec, ip.
  tree = build.kexecInstallerTree;
  inherit (build.kexecInstallerTarball) fileName;
  # The evaluated installer, to look at.
  inherit (installer) config options;
}
