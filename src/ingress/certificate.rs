//! Secrets of type `kubernetes.io/tls` to certificates, and the certificate for a name. Pure.

use super::world::Certificate;
use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use std::{collections::HashMap, sync::Arc};

/// The keys of a Secret of type `kubernetes.io/tls`.
const CHAIN: &str = "tls.crt";
const KEY: &str = "tls.key";

/// What a Secret's data are good for. What is wrong is said without a word of the data.
pub fn certificate<'a>(data: impl Fn(&str) -> Option<&'a [u8]>, crypto: &CryptoProvider) -> Certificate {
    match parse(data, crypto) {
        Ok(key) => Certificate::Usable(Arc::new(key)),
        Err(why) => Certificate::Unusable(why),
    }
}

fn parse<'a>(data: impl Fn(&str) -> Option<&'a [u8]>, crypto: &CryptoProvider) -> Result<CertifiedKey, String> {
    let get = |name: &str| data(name).ok_or_else(|| format!("it has no {name:?}"));
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(get(CHAIN)?).collect();
    let chain = chain.map_err(|_| format!("{CHAIN:?} is not PEM"))?;
    if chain.is_empty() {
        return Err(format!("{CHAIN:?} has no certificate"));
    }
    let key = PrivateKeyDer::from_pem_slice(get(KEY)?).map_err(|_| format!("{KEY:?} is no private key in PEM"))?;
    CertifiedKey::from_der(chain, key, crypto).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => format!("{KEY:?} is not the key of {CHAIN:?}"),
        _ => "the certificate or its key can't be used".to_owned(),
    })
}

/// A host's own certificate, else that of all names one label below its parent (`*.example.com`).
pub fn for_name<'a>(certificates: &'a HashMap<String, Arc<CertifiedKey>>, name: &str) -> Option<&'a Arc<CertifiedKey>> {
    let name = name.to_ascii_lowercase();
    let wildcard = || certificates.get(&format!("*.{}", name.split_once('.')?.1));
    certificates.get(&name).or_else(wildcard)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertifiedKey as Made, generate_simple_self_signed};
    use std::collections::BTreeMap;

    fn made(host: &str) -> (String, String) {
        let Made { cert, signing_key } = generate_simple_self_signed([host.to_owned()]).unwrap();
        (cert.pem(), signing_key.serialize_pem())
    }

    fn read(chain: Option<&str>, key: Option<&str>) -> Certificate {
        let data: BTreeMap<&str, &[u8]> = [(CHAIN, chain), (KEY, key)]
            .into_iter()
            .filter_map(|(name, text)| Some((name, text?.as_bytes())))
            .collect();
        certificate(|name| data.get(name).copied(), &rustls::crypto::aws_lc_rs::default_provider())
    }

    #[test]
    fn a_pair_of_certificate_and_key_is_usable_and_what_else_there_is_is_named_without_its_content() {
        let ((chain, key), (_, other)) = (made("a.test"), made("b.test"));
        assert!(matches!(read(Some(&chain), Some(&key)), Certificate::Usable(_)));
        for (chain, key, expected) in [
            (None, Some(key.as_str()), "it has no \"tls.crt\""),
            (Some(chain.as_str()), None, "it has no \"tls.key\""),
            (Some(""), Some(&key), "\"tls.crt\" has no certificate"),
            (Some(&chain), Some("SECRET"), "\"tls.key\" is no private key in PEM"),
            (Some(&chain), Some(&other), "\"tls.key\" is not the key of \"tls.crt\""),
        ] {
            match read(chain, key) {
                Certificate::Unusable(why) => assert_eq!(why, expected),
                found => panic!("{expected}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_name_gets_its_own_certificate_before_the_wildcards_and_none_of_another_level() {
        let key = |host: &str| {
            let (chain, key) = made(host);
            match read(Some(&chain), Some(&key)) {
                Certificate::Usable(key) => key,
                other => panic!("{other:?}"),
            }
        };
        let (own, wild) = (key("a.example.com"), key("*.example.com"));
        let all: HashMap<_, _> = [("a.example.com", &own), ("*.example.com", &wild)]
            .into_iter()
            .map(|(name, key)| (name.to_owned(), Arc::clone(key)))
            .collect();
        for (name, expected) in [
            ("a.example.com", Some(&own)),
            ("A.Example.Com", Some(&own)),
            ("b.example.com", Some(&wild)),
            ("c.b.example.com", None),
            ("example.com", None),
            ("com", None),
        ] {
            let found = for_name(&all, name);
            assert!(found.map(Arc::as_ptr) == expected.map(Arc::as_ptr), "{name}");
        }
    }
}
