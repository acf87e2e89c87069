//! Compiles the protocol between provider and agents (needs `protoc`, as k8s-cri's build does).

fn main() -> std::io::Result<()> {
    pack_relocations();
    // Bytes instead of Vec<u8>: one encoded update is shared by all agents that it goes to.
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::proto::LeanCodec")
        .compile_protos(&["proto/agent.proto"], &["proto"])
}

/// Relocations packed: two megabytes less of the program to load. Only where the linker is known to have that: LLD is
/// Rust's own on this target. Where it runs, the C library must know them: glibc does since 2.36 (Debian 12), and an
/// older one refuses such a program by name (GLIBC_ABI_DT_RELR).
fn pack_relocations() {
    if std::env::var("TARGET").is_ok_and(|target| target == "x86_64-unknown-linux-gnu") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
