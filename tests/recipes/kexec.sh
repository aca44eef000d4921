# kexec.sh: kexec-tools from Debian's source, static, as the stock installer tarball carries it.
# in: OUT, WORK, RECIPES   out: OUT/kexec
set -eu
. "$RECIPES/debian.sh"

cd "$WORK"
apt_private update
apt_private source --download-only kexec-tools
mkdir source
tar -C source --strip-components=1 -xf kexec-tools_*.orig.tar.*
cd source
./configure --quiet --without-xen --without-lzma --without-zlib --without-zstd LDFLAGS=-static
make -s -j2 build/sbin/kexec
strip build/sbin/kexec
mkdir -p "$OUT"
cp build/sbin/kexec "$OUT/kexec"
"$OUT/kexec" --version
