# Configurations that are files, for tests of what landfall asks nix about one. Built by the shell that
# lies beside this file.
{
  outputs = { self }: let
    file = name: system: script: derivation {
      inherit name system;
      builder = "${self}/sh";
      args = [ "-c" script ];
    };
    luks = name: rest: { type = "luks"; inherit name; askPassword = false; settings = { }; } // rest;
  in {
    nixosConfigurations = {
      here.config = {
        system.build = {
          toplevel = file "toplevel" "@here@" "echo toplevel > $out";
          diskoScript = file "disko" "@here@" "echo disko > $out";
          installTest = file "install-test" "@here@" "echo the machine has booted; echo tested > $out";
        };
        nix.settings = {
          substituters = [ "https://a.example" ];
          extra-substituters = " https://b.example  https://a.example";
          trusted-public-keys = "a-1:AAAA b-1:BBBB";
        };
        disko.devices = {
          disk.main = {
            device = "/dev/vda";
            # what evaluating everything would run into
            _parent = throw "this leads in circles";
            size = throw "this has no value";
            content.partitions.root.content = luks "crypted" {
              passwordFile = "/tmp/unread";
              settings = { keyFile = "/tmp/disk.key"; keyFileSize = 64; };
              additionalKeyFiles = [ "/tmp/second.key" ];
              content.lvs = [ (luks "inner" { passwordFile = "/tmp/password"; }) ];
            };
          };
          disk.other.device = "/dev/vdb";
          zpool.tank = {
            name = "tank";
            rootFsOptions = { keylocation = "file:///tmp/zfs.key"; keyformat = "raw"; };
            datasets.asked.options.keylocation = "prompt";
          };
        };
      };
      # another one each time
      unique.config.system.build.toplevel = file "toplevel" "@here@" "echo unique > $out # @unique@";
      foreign.config.system.build = {
        toplevel = file "toplevel" "riscv64-linux" "echo toplevel > $out";
        installTest = file "install-test" "@here@" "echo it did not boot; exit 1";
      };
      # nobody sits where its script would ask
      asking.config = {
        inherit (self.nixosConfigurations.here.config) system nix;
        disko.devices = {
          disk.main = {
            device = "/dev/vda";
            content.partitions = {
              root.content = luks "typed" { askPassword = true; };
              home.content = luks "filed" { settings.keyFile = "/tmp/disk.key"; };
            };
          };
          zpool.tank = {
            rootFsOptions = { keylocation = "prompt"; keyformat = "passphrase"; };
            datasets.home = { name = "home"; options = { keyformat = "raw"; encryption = "on"; }; };
            datasets.file.options = { keyformat = "raw"; keylocation = "file:///tmp/zfs.key"; };
            datasets.inherits = { name = "inherits"; options.keylocation = "prompt"; };
          };
        };
      };
      # says nothing of disks and caches
      silent.config = {
        inherit (self.nixosConfigurations.here.config) system;
        disko.devices.disk.main = { };
        nix.settings.substituters = throw "not today";
      };
      diskless.config.system.build = {
        diskoScript = throw "No disks defined, did you forget to import your disko config?";
        toplevel = file "toplevel" "@here@" "echo toplevel > $out";
      };
      wrong.config.system.build = {
        diskoScript = file "disko" "@here@" "echo disko > $out";
        toplevel = throw "\nFailed assertions:\n- no root file system";
      };
      bare.config = { };
    };
  };
}
