//! Compiles the protocol between provider and agents (needs `protoc`, as k8s-cri's build does).

fn main() -> std::io::Result<()> {
    // Bytes instead of Vec<u8>: one encoded update is shared by all agents that it goes to.
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::proto::LeanCodec")
        .compile_protos(&["proto/agent.proto"], &["proto"])
}
