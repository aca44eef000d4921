# Packages as derivations that evaluate and do not build. Only names that nixpkgs has are listed, so
# that a misspelt one is an error here as well.
{
  system ? builtins.currentSystem,
  ...
}:
let
  lib = import ./lib.nix;

  package =
    name: extra:
    derivation {
      inherit name system;
      builder = "/not-built-here";
    }
    // {
      override = _: package name extra;
      overrideAttrs = _: package name extra;
      meta.mainProgram = name;
    }
    // extra;

  packages =
    names:
    lib.genAttrs names (name: package name { });

  build =
    name: attrs:
    derivation (
      {
        inherit name system;
        builder = "/not-built-here";
      }
      // attrs
    );

  pkgs =
    packages [
      "btrfs-progs"
      "cargo"
      "cargo-deny"
      "clippy"
      "coreutils"
      "cryptsetup"
      "dosfstools"
      "e2fsprogs"
      "efibootmgr"
      "gitMinimal"
      "gptfdisk"
      "installShellFiles"
      "iproute2"
      "jq"
      "kexec-tools"
      "linux-firmware"
      "lvm2"
      "makeBinaryWrapper"
      "mdadm"
      "nix"
      "nixos-install-tools"
      "openssh"
      "parted"
      "qemu"
      "rsync"
      "rust-analyzer"
      "rustc"
      "rustfmt"
      "shellcheck"
      "xfsprogs"
    ]
    // {
      inherit lib;
      path = ./.;
      stdenv.hostPlatform = {
        inherit system;
        isLinux = lib.hasSuffix "-linux" system;
        isDarwin = lib.hasSuffix "-darwin" system;
        isAarch64 = builtins.substring 0 7 system == "aarch64";
      };

      rustPlatform.buildRustPackage =
        args:
        build "${args.pname}-${args.version}" {
          src = toString args.src;
          inputs = map toString (args.nativeBuildInputs or [ ]);
          post = args.postInstall or "" + args.postFixup or "";
        }
        // {
          overrideAttrs = f: pkgs.rustPlatform.buildRustPackage (args // f args);
          inherit (args) meta;
        };
      writeTextFile =
        {
          name,
          text,
          executable ? false,
        }:
        build name { inherit text executable; };
      linkFarm = name: entries: build name { links = builtins.toJSON entries; };
      runCommand =
        name: attrs: script:
        build name (removeAttrs attrs [ "passthru" "meta" ] // { inherit script; })
        // attrs.passthru or { };
      mkShell = attrs: build "shell" { inputs = map toString attrs.packages; };

      # Other machines have the same packages; here they only differ by name.
      pkgsStatic = pkgs;
      pkgsCross = {
        gnu64 = import ./. { system = "x86_64-linux"; };
        aarch64-multiplatform = import ./. { system = "aarch64-linux"; };
      };

      nixos = modules: import ./nixos { inherit lib pkgs modules; };
    };
in
pkgs
