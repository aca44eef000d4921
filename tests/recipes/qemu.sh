# qemu.sh: the suite's QEMU with its libraries, its own ld.so and its firmware, moved to a folder of
# its own, so that it runs on a machine with an older C library. (QEMU 7.2 corrupts memory of the
# suite's kernel under TCG: three of five boots crashed.)
# in: OUT, FINAL, WORKSHOP, WORK, RECIPES
# out: OUT/qemu (call this), OUT/OVMF_CODE.fd, OUT/OVMF_VARS.fd
set -eu
. "$RECIPES/debian.sh"

root=$WORKSHOP/root
modules=$root/usr/lib/$TRIPLET/qemu
mkdir -p "$OUT/bin" "$OUT/lib" "$OUT/modules" "$OUT/share"

cp "$root/usr/bin/qemu-system-x86_64" "$root/usr/bin/qemu-img" "$OUT/bin/"
programs="/usr/bin/qemu-system-x86_64 /usr/bin/qemu-img"
for module in "$modules"/accel-tcg-*.so; do
  [ -e "$module" ] || continue
  cp "$module" "$OUT/modules/"
  programs="$programs /usr/lib/$TRIPLET/qemu/$(basename "$module")"
done
# shellcheck disable=SC2086 # a list of paths without spaces
for library in $(chroot_libraries "$root" $programs); do cp -L "$root$library" "$OUT/lib/"; done
cp -L "$root/lib64/ld-linux-x86-64.so.2" "$OUT/lib/ld.so"

for library in "$OUT"/lib/*.so*; do
  case $library in
    */ld.so | */libc.so.6) ;;
    *) patchelf --force-rpath --set-rpath '$ORIGIN' "$library" ;;
  esac
done
for program in qemu-system-x86_64 qemu-img; do
  patchelf --set-interpreter "$FINAL/lib/ld.so" --force-rpath --set-rpath '$ORIGIN/../lib' "$OUT/bin/$program"
done

cp -rL "$root/usr/share/seabios/." "$OUT/share/"
for file in "$root"/usr/share/qemu/*; do [ ! -f "$file" ] || cp -L "$file" "$OUT/share/"; done
cp "$root"/usr/lib/ipxe/qemu/*virtio* "$OUT/share/" 2>/dev/null || true
cp "$root/usr/share/OVMF/OVMF_CODE_4M.fd" "$OUT/OVMF_CODE.fd"
cp "$root/usr/share/OVMF/OVMF_VARS_4M.fd" "$OUT/OVMF_VARS.fd"

cat > "$OUT/qemu" <<END
#!/bin/sh
QEMU_MODULE_DIR=$FINAL/modules exec $FINAL/bin/qemu-system-x86_64 -L $FINAL/share "\$@"
END
chmod +x "$OUT/qemu"
