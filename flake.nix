{
  description = "Installs NixOS over SSH, and keeps going when the link does not";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      linux = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      darwin = [
        "x86_64-darwin"
        "aarch64-darwin"
      ];
      forEach = systems: f: lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});

      workspace = (lib.importTOML ./Cargo.toml).workspace.package;
      # Only what cargo reads, so that a change to a page of documentation rebuilds nothing.
      src = lib.fileset.toSource {
        root = ./.;
        fileset = lib.fileset.unions [
          ./Cargo.toml
          (lib.fileset.maybeMissing ./Cargo.lock)
          (lib.fileset.maybeMissing ./clippy.toml)
          ./rustfmt.toml
          ./agent
          ./controller
          ./proto
          ./tests
        ];
      };
      crate =
        pkgs: pname: more:
        pkgs.rustPlatform.buildRustPackage (
          {
            inherit pname src;
            inherit (workspace) version;
            cargoLock.lockFile = ./Cargo.lock;
            cargoBuildFlags = [
              "--package"
              pname
            ];
            # The checks run them once, for the whole workspace.
            doCheck = false;
            meta = {
              description = "Installs NixOS over SSH";
              license = lib.licenses.mit;
              mainProgram = pname;
            };
          }
          // more
        );

      # A static program for the target, whatever this machine is.
      agentFor =
        pkgs:
        crate pkgs "landfall-agent" {
          buildType = "agent";
          # After the fixup, which strips.
          postFixup = ''
            program=$out/bin/landfall-agent
            if "$READELF" --program-headers "$program" | grep -q INTERP; then
              echo "error: the agent asks for a dynamic linker, and targets may have none" >&2
              exit 1
            fi
            if [ "$(stat -c %s "$program")" -gt 6000000 ]; then
              echo "error: the agent is larger than 6 MB" >&2
              exit 1
            fi
          '';
        };
      agents = pkgs: {
        x86_64 = agentFor pkgs.pkgsCross.gnu64.pkgsStatic;
        aarch64 = agentFor pkgs.pkgsCross.aarch64-multiplatform.pkgsStatic;
      };

      # The program an operator runs, with both agents where it looks for them. `nix` and `git` are
      # put behind what is there already: the operator's own come first.
      controller =
        pkgs:
        crate pkgs "landfall" {
          nativeBuildInputs = [
            pkgs.installShellFiles
            pkgs.makeBinaryWrapper
          ];
          postInstall = lib.concatStringsSep "\n" (
            map (arch: ''
              install -D -m 0555 ${(agents pkgs).${arch}}/bin/landfall-agent \
                "$out/libexec/landfall/landfall-agent-${arch}-linux-musl"
            '') (builtins.attrNames (agents pkgs))
            ++ [
              ''
                "$out/bin/landfall" man --dir man
                installManPage man/*.1
                for shell in bash fish zsh; do
                  "$out/bin/landfall" completions "$shell" >"landfall.$shell"
                  installShellCompletion "landfall.$shell"
                done
              ''
            ]
          );
          postFixup = ''
            wrapProgram "$out/bin/landfall" --suffix PATH : ${
              lib.makeBinPath [
                pkgs.gitMinimal
                pkgs.nix
              ]
            }
          '';
        };

      image = pkgs: import ./kexec-image { inherit pkgs lib; };
    in
    {
      packages = forEach (linux ++ darwin) (
        pkgs:
        rec {
          default = landfall;
          landfall = controller pkgs;
          # Under this name nothing is asked, as scripts written for that tool expect.
          nixos-anywhere = pkgs.runCommand "nixos-anywhere" { meta.mainProgram = "nixos-anywhere"; } ''
            mkdir -p "$out/bin"
            ln -s ${landfall}/bin/landfall "$out/bin/nixos-anywhere"
          '';
          agent-x86_64 = (agents pkgs).x86_64;
          agent-aarch64 = (agents pkgs).aarch64;
        }
        // lib.optionalAttrs pkgs.stdenv.hostPlatform.isLinux { kexec-image = (image pkgs).tarball; }
      );

      apps = forEach (linux ++ darwin) (pkgs: {
        default = {
          type = "app";
          program = lib.getExe self.packages.${pkgs.stdenv.hostPlatform.system}.landfall;
          meta.description = "Install NixOS on a machine that is reachable over SSH";
        };
      });

      # For images of one's own: `nixpkgs.lib.nixosSystem` with this module among others.
      nixosModules.kexec-image = ./kexec-image/module.nix;

      devShells = forEach (linux ++ darwin) (pkgs: {
        default = pkgs.mkShell {
          packages = [
            pkgs.cargo
            pkgs.cargo-deny
            pkgs.clippy
            pkgs.jq
            pkgs.rust-analyzer
            pkgs.rustc
            pkgs.rustfmt
            pkgs.shellcheck
          ];
        };
      });

      # What runs without a network and without virtual machines; `cargo verify` has those as well.
      checks = forEach linux (
        pkgs:
        let
          cargo =
            name: script:
            crate pkgs "landfall-${name}" {
              nativeBuildInputs = [
                pkgs.clippy
                pkgs.rustfmt
              ];
              buildPhase = script;
              installPhase = ''touch "$out"'';
            };
        in
        {
          format = cargo "format" "cargo fmt --all --check";
          clippy = cargo "clippy" "cargo clippy --workspace --all-targets --offline -- -D warnings";
          unit-tests = cargo "unit-tests" "cargo test --workspace --exclude landfall-tests --offline";
          kexec-run = pkgs.runCommand "kexec-run" { nativeBuildInputs = [ pkgs.shellcheck ]; } ''
            shellcheck ${./kexec-image/run.sh}
            touch "$out"
          '';
          kexec-network = pkgs.runCommand "kexec-network" { nativeBuildInputs = [ pkgs.jq ]; } ''
            cd ${./tests/nix/network}
            jq -n --slurpfile addrs addrs.json --slurpfile v4 routes-v4.json \
              --slurpfile v6 routes-v6.json -f ${./kexec-image/network.jq} >"$TMPDIR/seen.json"
            diff expected.json "$TMPDIR/seen.json"
            touch "$out"
          '';
          inherit (self.packages.${pkgs.stdenv.hostPlatform.system}) landfall kexec-image;
        }
      );
    };
}
