# What the kexec image promises, as plain data, for each architecture. Making the derivations forces
# every option and every package the image names.
{
  modules ? [ ],
}:
let
  promises =
    system:
    let
      image = import ../../kexec-image {
        pkgs = import ./nixpkgs-stub { inherit system; };
        inherit modules;
      };
      inherit (image) config;
      isDerivation = x: builtins.match "/nix/store/.*[.]drv" x.drvPath != null;
    in
    {
      inherit (image) fileName;
      builds = isDerivation image.tarball && isDerivation image.tree;
      variant = config.system.nixos.variant_id;
      lastConsole = builtins.elemAt config.boot.kernelParams (
        if system == "aarch64-linux" then 2 else 1
      );
      hostKeys = map (key: key.type) config.services.openssh.hostKeys;
      rootLogin = config.services.openssh.settings.PermitRootLogin;
      stage1 = builtins.attrNames config.boot.initrd.systemd.services;
      budgetMiB = config.landfall.image.budgetMiB;
    };
in
{
  x86_64-linux = promises "x86_64-linux";
  aarch64-linux = promises "aarch64-linux";
}
