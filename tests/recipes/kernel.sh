# kernel.sh: Debian's cloud kernel, unpacked without installing it. Every machine of the rig runs it.
# in: OUT, WORK, RECIPES   out: OUT/bzImage, OUT/version, OUT/lib/modules/VERSION
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
