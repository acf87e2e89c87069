//! Launch templates: what all instances of a configuration have in common. Pure.
//!
//! A fleet takes what it launches from a template alone, but for type and subnet, so the template holds
//! everything that does not change from batch to batch; RunInstances uses the same ones. A template's name is
//! made of its content: one that exists is right, is never changed, and any number of providers may make it
//! at once. Those that a configuration no longer needs are swept ([`super::leaks`]).

use super::{
    config::{Ec2Config, RootVolume},
    tags::hex,
    user_data::{CloudInit, UserDataError},
};
use crate::decide::purchase::policy::Architecture;
use crate::model::CreditMode;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pub name: String,
    pub content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    pub image: String,
    /// As the API takes it: base64.
    pub user_data: String,
    pub security_groups: Vec<String>,
    pub instance_profile: Option<String>,
    pub root_volume: RootVolume,
    /// None for types that are not burstable: they refuse it.
    pub credits: Option<CreditMode>,
    /// Of the network interfaces, which a fleet's request can't tag.
    pub tags: BTreeMap<String, String>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TemplateError {
    #[error("there is no image for {0:?}")]
    NoImage(Architecture),
    #[error(transparent)]
    UserData(#[from] UserDataError),
}

impl Template {
    pub fn new(
        config: &Ec2Config,
        architecture: Architecture,
        credits: Option<CreditMode>,
    ) -> Result<Self, TemplateError> {
        let image = config.images.get(&architecture).ok_or(TemplateError::NoImage(architecture))?;
        let mut tags = config.tags.clone();
        tags.insert(crate::model::tag::CLUSTER.to_owned(), config.cluster.clone());
        let content = Content {
            image: image.clone(),
            user_data: CloudInit::new(config)?.base64()?,
            security_groups: config.security_groups.clone(),
            instance_profile: config.instance_profile.clone(),
            root_volume: config.root_volume.clone(),
            credits,
            tags,
        };
        // Every field is in Debug's text, and all of ours derive it.
        let digest = hex(&Sha256::digest(format!("{content:?}")));
        Ok(Self { name: format!("{}{}", name_prefix(&config.cluster), &digest[..16]), content })
    }
}

/// The names of all templates of this cluster begin so. (AWS: at most 128 characters.)
pub fn name_prefix(cluster: &str) -> String {
    format!("pilotlight-{cluster}-")
}

#[cfg(test)]
mod tests {
    use super::super::config::tests::config;
    use super::*;

    fn name(config: &Ec2Config, architecture: Architecture, credits: Option<CreditMode>) -> String {
        Template::new(config, architecture, credits).unwrap().name
    }

    #[test]
    fn the_same_content_has_the_same_name_and_any_change_another() {
        let amd64 = Architecture::Amd64;
        let first = name(&config(), amd64, None);
        assert_eq!(first, name(&config(), amd64, None));
        assert!(first.starts_with("pilotlight-dev-") && first.len() <= 128, "{first}");
        let others = [
            name(&config(), Architecture::Arm64, None),
            name(&config(), amd64, Some(CreditMode::Standard)),
            name(&Ec2Config { security_groups: Vec::new(), ..config() }, amd64, None),
            name(&Ec2Config { ca_pem: "another".to_owned(), ..config() }, amd64, None),
            name(&Ec2Config { instance_profile: Some("p".to_owned()), ..config() }, amd64, None),
            name(&Ec2Config { tags: [("a".to_owned(), "b".to_owned())].into(), ..config() }, amd64, None),
        ];
        assert!(others.iter().all(|other| *other != first));
    }

    #[test]
    fn an_architecture_without_an_image_has_no_template() {
        let config = Ec2Config { images: BTreeMap::new(), ..config() };
        let refused = Template::new(&config, Architecture::Arm64, None);
        assert_eq!(refused, Err(TemplateError::NoImage(Architecture::Arm64)));
    }
}
