# cross.sh: what builds static musl programs for both architectures on a machine without a cross
# compiler: zig as C compiler and linker, and the cargo command that drives it.
# in: OUT, WORK   out: OUT/bin/cargo-zigbuild, OUT/python (for PYTHONPATH)
set -eu

mkdir -p "$OUT"
/usr/bin/python3 -m pip install --quiet --no-compile --root-user-action=ignore --target "$OUT/python" ziglang
CARGO_TARGET_DIR=$WORK/target cargo install --quiet --locked --root "$OUT" cargo-zigbuild
