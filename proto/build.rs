//! Compiles the wire description with protox, so that no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto.proto");
    let descriptors = protox::compile(["proto.proto"], ["."])?;
    tonic_prost_build::configure()
        // holds a secret
        .skip_debug([".landfall.v1.EntrustRequest"])
        .compile_fds(descriptors)?;
    Ok(())
}
