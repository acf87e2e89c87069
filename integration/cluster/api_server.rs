//! How the provider speaks to the API server.

use crate::support::*;
use std::fs;

/// The provider's own, and its one node's.
const IDENTITIES: usize = 2;

#[tokio::test]
async fn all_requests_and_watches_of_an_identity_share_one_connection() {
    let pid = fs::read_to_string(Cluster::get().provider_dir().join("pid")).expect("the provider runs");
    let pid = pid.split_whitespace().next().expect("its pid comes first");
    // One that ends may be there beside the one that follows it.
    until_true("one connection to the API server for each identity", || connections(pid) == IDENTITIES).await;
}

/// Established ones of this process to port 6443.
fn connections(pid: &str) -> usize {
    let sockets: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("root sees a process's files")
        .filter_map(|file| fs::read_link(file.ok()?.path()).ok()?.to_str().map(str::to_owned))
        .collect();
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).expect("the process's network");
    // proc_net_tcp(5): local and remote address, state, …, inode.
    let ours = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[2].ends_with(":192B") && fields[3] == "01" && sockets.contains(&format!("socket:[{}]", fields[9]))
    };
    table.lines().skip(1).filter(ours).count()
}
