//! The instance identity document and its signatures, made with a key of the stand-in's own.
//!
//! AWS signs with a key of each region whose certificate it publishes; here the certificate is at
//! `GET /standin/identity-certificate`. Source: AWS, "Instance identity documents".

use super::instances::Instance;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use std::{
    io::Write,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

pub fn document(instance: &Instance, region: &str, account: &str) -> String {
    let document = json!({
        "accountId": account,
        "architecture": "x86_64",
        "availabilityZone": instance.pool.zone,
        "billingProducts": null,
        "devpayProductCodes": null,
        "marketplaceProductCodes": null,
        "imageId": instance.image,
        "instanceId": instance.id,
        "instanceType": instance.pool.instance_type,
        "kernelId": null,
        "pendingTime": instance.launched_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "privateIp": instance.address.to_string(),
        "ramdiskId": null,
        "region": region,
        "version": "2017-09-30",
    });
    format!("{document:#}")
}

pub fn host_name(address: Ipv4Addr) -> String {
    format!("ip-{}", address.to_string().replace('.', "-"))
}

/// User data as the instance reads it.
pub fn decoded(base64: &str) -> Option<String> {
    let bytes = STANDARD.decode(base64).ok().filter(|bytes| !bytes.is_empty())?;
    String::from_utf8(bytes).ok()
}

/// An RSA key and its self-signed certificate, as files for `openssl`.
pub struct Signer {
    key: PathBuf,
    certificate: PathBuf,
}

impl Signer {
    pub fn new(dir: &Path) -> Result<Self, String> {
        let signer = Self { key: dir.join("identity.key"), certificate: dir.join("identity.crt") };
        let key = signer.key.display().to_string();
        let certificate = signer.certificate.display().to_string();
        openssl(
            &[
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-sha256",
                "-days",
                "2",
                "-subj",
                "/CN=the stand-in for EC2",
                "-keyout",
                &key,
                "-out",
                &certificate,
            ],
            b"",
        )?;
        Ok(signer)
    }

    pub fn certificate(&self) -> Result<String, String> {
        std::fs::read_to_string(&self.certificate).map_err(|error| format!("{}: {error}", self.certificate.display()))
    }

    /// RSA PKCS #1 v1.5 over SHA-256, base64.
    pub fn signature(&self, document: &str) -> Result<String, String> {
        openssl(&["dgst", "-sha256", "-sign", &self.key.display().to_string()], document.as_bytes())
            .map(|bytes| STANDARD.encode(bytes))
    }

    /// PKCS #7 that holds the document, base64 in lines, without PEM's first and last. In BER with indefinite
    /// lengths, as AWS's is.
    pub fn pkcs7(&self, document: &str) -> Result<String, String> {
        let (key, certificate) = (self.key.display().to_string(), self.certificate.display().to_string());
        let ber = openssl(
            &[
                "smime",
                "-sign",
                "-nodetach",
                "-binary",
                "-md",
                "sha256",
                "-outform",
                "DER",
                "-stream",
                "-nocerts",
                "-signer",
                &certificate,
                "-inkey",
                &key,
            ],
            document.as_bytes(),
        )?;
        let text = STANDARD.encode(ber);
        Ok(text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line)).collect::<Vec<_>>().join("\n"))
    }
}

fn openssl(arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, String> {
    let failed = |what: String| format!("openssl {}: {what}", arguments[0]);
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that fails may close it early; its own words say more.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instances::tests::instance;

    #[test]
    fn a_document_verifies_by_the_certificate_and_one_that_was_changed_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let signer = Signer::new(dir.path()).unwrap();
        let document = document(&instance("i-1", 0), "us-east-1", "123456789012");
        let pem = format!("-----BEGIN PKCS7-----\n{}\n-----END PKCS7-----\n", signer.pkcs7(&document).unwrap());
        let certificate = dir.path().join("identity.crt").display().to_string();
        // The command that AWS's page gives.
        let verify = ["smime", "-verify", "-inform", "PEM", "-certfile", &certificate, "-noverify"];
        assert_eq!(openssl(&verify, pem.as_bytes()).unwrap(), document.as_bytes());

        let file = dir.path().join("signature");
        std::fs::write(&file, STANDARD.decode(signer.signature(&document).unwrap()).unwrap()).unwrap();
        let key = dir.path().join("public.pem").display().to_string();
        openssl(&["x509", "-pubkey", "-noout", "-in", &certificate, "-out", &key], b"").unwrap();
        let check = ["dgst", "-sha256", "-verify", &key, "-signature", &file.display().to_string()];
        assert!(openssl(&check, document.as_bytes()).is_ok());
        assert!(openssl(&check, document.replace("i-1", "i-2").as_bytes()).is_err());
    }
}
