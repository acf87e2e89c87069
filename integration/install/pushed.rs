//! The image that scripts/image builds, in the test cluster's registry.

use crate::support::{Cluster, repo};
use std::process::Command;

const HOST: &str = "10.70.0.1";
const REGISTRY: &str = "10.70.0.1:5000";

/// Its repository and its tag there. Of the debug build, with what the tests are built with; PILOTLIGHT_TEST_IMAGE names an
/// archive (`pilotlight.test/pilotlight:VERSION`) to take in its place.
pub fn image(cluster: &Cluster) -> (String, String) {
    let tag = env!("CARGO_PKG_VERSION").to_owned();
    let archive = std::env::var("PILOTLIGHT_TEST_IMAGE").unwrap_or_else(|_| built(&tag));
    let tool = repo().join("target/tools/bin/imagetool").display().to_string();
    // No proxy of the environment's is between.
    let directly = format!("NO_PROXY={HOST}");
    cluster.inside(&["env", &directly, &tool, "push", "--registry", &format!("http://{REGISTRY}"), &archive]);
    (format!("{REGISTRY}/pilotlight"), tag)
}

fn built(tag: &str) -> String {
    let archive = repo().join("target/image/test.tar").display().to_string();
    let mut command = Command::new(repo().join("scripts/image"));
    command.args(["--debug", "--name", &format!("pilotlight.test/pilotlight:{tag}"), "--out", &archive]);
    if !cfg!(feature = "ec2") {
        command.arg("--without-ec2");
    }
    let built = command.output().expect("scripts/image can be run");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    print!("{}", String::from_utf8_lossy(&built.stdout));
    archive
}
