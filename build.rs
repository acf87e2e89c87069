//! Compiles the protocol between provider and agents (needs `protoc`, as k8s-cri's build does).

fn main() -> std::io::Result<()> {
    tonic_prost_build::compile_protos("proto/agent.proto")
}
