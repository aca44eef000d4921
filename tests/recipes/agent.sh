# build_agent ARCHITECTURE: the agent for one architecture, static. With the standard library from rustup
# where rustup can get it, else built from source by Debian's compiler.
# in: OUT, WORK, REPOSITORY, CROSS, BUILD (cargo's target folder, kept from one build to the next)
# out: OUT/landfall-agent-ARCHITECTURE-linux-musl

build_agent() {
  target=$1-unknown-linux-musl
  cd "$REPOSITORY"
  export PYTHONPATH="$CROSS/python" CARGO_ZIGBUILD_PYTHON_PATH=/usr/bin/python3
  unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET

  # LANDFALL_RIG_NO_RUSTUP shows on a machine with rustup what one without it does
  if [ -z "${LANDFALL_RIG_NO_RUSTUP:-}" ] && command -v rustup > /dev/null &&
    timeout 300 rustup target add "$target"; then
    build() { CARGO_TARGET_DIR=$BUILD/rustup "$CROSS/bin/cargo-zigbuild" zigbuild "$@"; }
    built=$BUILD/rustup
  else
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      -o DPkg::Lock::Timeout=600 rustc-web cargo-web rust-web-src
    # older ones are in the first release of bookworm; the security suite has one that will do
    minor=$(/usr/bin/rustc --version | sed 's/^rustc 1\.\([0-9]*\).*/\1/')
    wanted=$(sed -n 's/^rust-version = "1\.\([0-9]*\).*/\1/p' Cargo.toml)
    if [ "$minor" -lt "$wanted" ]; then
      echo "Debian's rustc-web is 1.$minor, and 1.$wanted is needed: add the security suite to apt's sources, or install rustup" >&2
      exit 1
    fi
    # std comes without start files for these targets: zig's are taken
    build() {
      env -u RUSTUP_TOOLCHAIN RUSTFLAGS=-Clink-self-contained=no RUSTC_BOOTSTRAP=1 \
        CARGO=/usr/bin/cargo RUSTC=/usr/bin/rustc PATH="/usr/bin:$PATH" CARGO_TARGET_DIR="$BUILD/debian" \
        "$CROSS/bin/cargo-zigbuild" zigbuild -Zbuild-std=std,panic_abort "$@"
    }
    built=$BUILD/debian
  fi
  build --profile agent --package landfall-agent --target "$target"

  mkdir -p "$OUT"
  cp "$built/$target/agent/landfall-agent" "$OUT/landfall-agent-$1-linux-musl"
}
