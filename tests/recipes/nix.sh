# nix.sh: the suite's nix (2.26 or newer) with its libraries and its own ld.so, moved to a folder of
# its own. Patched, not wrapped, because nix runs /proc/self/exe again.
# in: OUT, FINAL, WORKSHOP, WORK, RECIPES   out: OUT/bin (for PATH)
set -eu
. "$RECIPES/debian.sh"

root=$WORKSHOP/root
mkdir -p "$OUT/bin" "$OUT/lib"

cp "$root/usr/bin/nix" "$OUT/bin/"
for library in $(chroot_libraries "$root" /usr/bin/nix); do cp -L "$root$library" "$OUT/lib/"; done
# opened by name at run time, so ldd does not show them
for library in libnss_files.so.2 libnss_dns.so.2 libresolv.so.2; do
  [ ! -e "$root/usr/lib/$TRIPLET/$library" ] || cp -L "$root/usr/lib/$TRIPLET/$library" "$OUT/lib/"
done
cp -L "$root/lib64/ld-linux-x86-64.so.2" "$OUT/lib/ld.so"

for library in "$OUT"/lib/*.so*; do
  case $library in
    */ld.so | */libc.so.6) ;;
    *) patchelf --force-rpath --set-rpath '$ORIGIN' "$library" ;;
  esac
done
patchelf --set-interpreter "$FINAL/lib/ld.so" --force-rpath --set-rpath '$ORIGIN/../lib' "$OUT/bin/nix"
for name in nix-build nix-collect-garbage nix-copy-closure nix-daemon nix-env nix-hash nix-instantiate nix-store; do
  ln -s nix "$OUT/bin/$name"
done
