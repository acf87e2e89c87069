//! What EKS does where other clusters sign kubelets' certificates: nothing for clients, and by a signer of its own for
//! servers (AWS, "Secure workloads with Kubernetes certificates").

use crate::support::Cluster;
use futures::StreamExt;
use k8s_openapi::{ByteString, api::certificates::v1::CertificateSigningRequest};
use kube::{
    Api,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use std::{fs, process::Command};
use tokio::task::JoinHandle;

pub const SIGNER: &str = "beta.eks.amazonaws.com/app-serving";
/// "Must not include usages beyond" these.
const USAGES: [&str; 3] = ["key encipherment", "digital signature", "server auth"];

/// Signs what is approved with the cluster's CA, until dropped.
pub struct Signer(JoinHandle<()>);

impl Signer {
    pub fn start(cluster: &'static Cluster, client: kube::Client) -> Self {
        Self(tokio::spawn(async move {
            let requests: Api<CertificateSigningRequest> = Api::all(client);
            let all = watcher(requests.clone(), watcher::Config::default()).default_backoff().applied_objects();
            let mut all = std::pin::pin!(all);
            while let Some(seen) = all.next().await {
                if let Some((name, certificate)) = seen.ok().and_then(|request| answer(cluster, request)) {
                    let status = json!({ "status": { "certificate": ByteString(certificate) } });
                    let patch = PatchParams::default();
                    if let Err(error) = requests.patch_status(&name, &patch, &Patch::Merge(status)).await {
                        eprintln!("{name} is not signed: {error}");
                    }
                }
            }
        }))
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The certificate of a request that is for this signer, is approved and has none.
fn answer(cluster: &Cluster, request: CertificateSigningRequest) -> Option<(String, Vec<u8>)> {
    let status = request.status.unwrap_or_default();
    let approved = status.conditions.into_iter().flatten().any(|condition| condition.type_ == "Approved");
    if request.spec.signer_name != SIGNER || !approved || status.certificate.is_some() {
        return None;
    }
    let usages = request.spec.usages.unwrap_or_default();
    if !usages.iter().all(|usage| USAGES.contains(&usage.as_str())) {
        eprintln!("EKS signs no {usages:?}");
        return None;
    }
    let name = request.metadata.name.expect("an object has a name");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("request.pem");
    fs::write(&file, request.spec.request.0).expect("written");
    // Its extensions are the alternative names; others are none that a request here has.
    let mut openssl = Command::new("openssl");
    openssl.args(["x509", "-req", "-days", "365", "-copy_extensions", "copy", "-in"]).arg(&file);
    openssl.arg("-CA").arg(cluster.state.join("pki/ca.crt")).arg("-CAkey").arg(cluster.state.join("pki/ca.key"));
    let signed = openssl.output().expect("openssl can be run");
    assert!(signed.status.success(), "openssl: {}", String::from_utf8_lossy(&signed.stderr));
    Some((name, signed.stdout))
}
