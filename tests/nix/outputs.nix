# The flake's outputs with the stand-in as nixpkgs: kind -> system -> names. Each one is made into a
# derivation on the way, so that a name that does not evaluate is not listed but an error.
let
  stub = import ./nixpkgs-stub/flake.nix;
  nixpkgs = stub.outputs { self = nixpkgs; };
  flake = (import ../../flake.nix).outputs {
    self = flake;
    inherit nixpkgs;
  };
  evaluated = output: builtins.seq (output.drvPath or output.program) true;
  names =
    kind:
    builtins.mapAttrs (
      _: outputs: builtins.filter (name: evaluated outputs.${name}) (builtins.attrNames outputs)
    ) flake.${kind};
in
{
  packages = names "packages";
  apps = names "apps";
  checks = names "checks";
  devShells = names "devShells";
  modules = builtins.attrNames flake.nixosModules;
}
