//! Compiles the definitions under `proto/` with a pure-Rust compiler: no `protoc` is needed.

use prost::Message;
use std::path::PathBuf;
use std::{env, fs};

const FILES: [&str; 7] = [
    "google.proto",
    "graph.proto",
    "object_graph.proto",
    "saved_model.proto",
    "tensor_bundle.proto",
    "fingerprint.proto",
    "serving.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(FILES, ["proto"])?;
    // The wire check (saved_model/wire.rs) reads field numbers from the descriptors.
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), files.encode_to_vec())?;
    prost_build::Config::new()
        // Stable output, and no copy of a tensor's bytes out of the file that holds it.
        .btree_map(["."])
        .bytes(["."])
        // A map holds room for eleven values: with tensors in place, a node of one attribute would take kilobytes.
        .boxed(".tfgraft.pb.AttrValue.value.tensor")
        .boxed(".tfgraft.pb.AttrValue.value.list")
        .boxed(".tfgraft.pb.AttrValue.value.func")
        .compile_fds(files)?;
    Ok(())
}
