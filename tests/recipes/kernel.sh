# kernel.sh: Debian's cloud kernel, unpacked without installing it. Every machine of the rig runs it.
# in: OUT, WORK, RECIPES
# out: OUT/bzImage, OUT/vmlinux (the same, not compressed), OUT/version, OUT/lib/modules/VERSION
set -eu
. "$RECIPES/debian.sh"

cd "$WORK"
apt_private update
package=$(apt_private --simulate install linux-image-cloud-amd64 |
  awk '/^Inst linux-image-[0-9]/{print $2; exit}')
apt_private download "$package"
dpkg-deb -x ./*.deb unpacked
version=$(ls unpacked/usr/lib/modules 2>/dev/null || ls unpacked/lib/modules)

mkdir -p "$OUT/lib/modules"
cp "unpacked/boot/vmlinuz-$version" "$OUT/bzImage"
cp -a unpacked/*/modules/"$version" unpacked/usr/lib/modules/"$version" "$OUT/lib/modules/" 2>/dev/null || true
[ -d "$OUT/lib/modules/$version/kernel" ]
depmod -b "$OUT" "$version"
echo "$version" > "$OUT/version"

# A bzImage unpacks itself, which takes 2 s of a processor under TCG. QEMU and kexec start what is in it
# as well. Where that is says the header: setup sectors at 497, the payload's place and length at 584 and
# 588; its last four bytes are the length before compression. Without what only memory encryption of AMD
# works in, 4 MB behind all memory that is zero at start, that takes no room in the file either.
field() { od -An "-t$1" "-j$2" "-N$3" "$OUT/bzImage" | tr -d ' '; }
start=$((($(field u1 497 1) + 1) * 512 + $(field u4 584 4)))
tail -c "+$((start + 1))" "$OUT/bzImage" | head -c "$(($(field u4 588 4) - 4))" | zstd -q -dc > unpacked/vmlinux
objcopy --strip-all --remove-section .init.scratch unpacked/vmlinux "$OUT/vmlinux"
