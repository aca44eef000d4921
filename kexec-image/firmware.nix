# Firmware for what a server cannot be reached or installed without: wired network cards and host
# adapters.
#
# The whole collection is several hundred MiB, most of it for screens, phones and radios, and all of
# it would lie in RAM. Whoever needs more adds it: `hardware.firmware = [ pkgs.linux-firmware ]`.
{ lib, pkgs, ... }:
let
  wanted = [
    # network: Broadcom, Chelsio, Intel, Marvell/QLogic, Mellanox switches, Netronome, Realtek
    "bnx2"
    "bnx2x"
    "cxgb4"
    "intel/ice"
    "mellanox"
    "netronome"
    "qed"
    "rtl_nic"
    "tigon"
    # storage: QLogic host adapters
    "ql2*_fw.bin"
  ];
in
{
  # Drivers for everything turn the whole collection on.
  hardware.enableRedistributableFirmware = lib.mkForce false;

  hardware.firmware = [
    (pkgs.runCommand "server-firmware" { } ''
      mkdir -p "$out/lib/firmware"
      cd ${pkgs.linux-firmware}/lib/firmware
      # A directory that has moved upstream is not worth a failed build, but is said.
      for name in ${toString wanted}; do
        if [ -e "$name" ]; then
          cp -rL --parents "$name" "$out/lib/firmware/"
        else
          echo "warning: no firmware $name; continuing because few machines need it" >&2
        fi
      done
    '')
  ];
}
