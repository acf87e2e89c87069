//! What instances may leave, and launch templates, to be found and deleted.

use super::super::{
    leaks::Leak,
    limits::Kind,
    refusal::{Refusal, Verdict},
    template::name_prefix,
};
use super::{Api, filter, of_cluster};
use crate::model::InstanceId;
use std::collections::BTreeSet;

/// More are found in the next pass.
const PAGE: i32 = 500;

impl Api {
    /// Volumes and network interfaces of the cluster that are attached to nothing.
    pub async fn detached(&self, cluster: &str) -> Result<BTreeSet<Leak>, Refusal> {
        let filters = vec![of_cluster(cluster), filter("status", "available")];
        self.limits.take(Kind::Describe, 1).await;
        let sent = self.client.describe_volumes().set_filters(Some(filters.clone())).max_results(PAGE).send().await;
        let volumes = self.answer(Kind::Describe, sent)?;
        let volumes = volumes.volumes().iter().filter_map(|v| Some(Leak::Volume(v.volume_id()?.to_owned())));
        let mut found: BTreeSet<Leak> = volumes.collect();
        self.limits.take(Kind::Describe, 1).await;
        let sent = self.client.describe_network_interfaces().set_filters(Some(filters)).max_results(PAGE).send().await;
        let interfaces = self.answer(Kind::Describe, sent)?;
        let interfaces = interfaces.network_interfaces().iter();
        found.extend(interfaces.filter_map(|i| Some(Leak::NetworkInterface(i.network_interface_id()?.to_owned()))));
        Ok(found)
    }

    /// The cluster's launch templates, by name.
    pub async fn templates(&self, cluster: &str) -> Result<Vec<String>, Refusal> {
        self.limits.take(Kind::Describe, 1).await;
        let sent = self.client.describe_launch_templates().filters(of_cluster(cluster)).max_results(200).send().await;
        let found = self.answer(Kind::Describe, sent)?;
        let named = |name: &&str| name.starts_with(&name_prefix(cluster));
        Ok(found
            .launch_templates()
            .iter()
            .filter_map(|t| t.launch_template_name())
            .filter(named)
            .map(str::to_owned)
            .collect())
    }

    /// What is gone already is as good.
    pub async fn delete(&self, leak: &Leak) -> Result<(), Refusal> {
        let ended = match leak {
            Leak::StoppedInstance(id) => self.terminate(&[InstanceId::new(id)]).await,
            Leak::Volume(id) => {
                self.limits.take(Kind::Mutating, 1).await;
                let sent = self.client.delete_volume().volume_id(id).send().await;
                self.answer(Kind::Mutating, sent).map(drop)
            }
            Leak::NetworkInterface(id) => {
                self.limits.take(Kind::Mutating, 1).await;
                let sent = self.client.delete_network_interface().network_interface_id(id).send().await;
                self.answer(Kind::Mutating, sent).map(drop)
            }
            Leak::LaunchTemplate(name) => {
                self.limits.take(Kind::Mutating, 1).await;
                let sent = self.client.delete_launch_template().launch_template_name(name).send().await;
                self.answer(Kind::Mutating, sent).map(drop)
            }
        };
        match ended {
            Err(refusal) if matches!(refusal.verdict, Verdict::NotFound | Verdict::TemplateGone) => Ok(()),
            other => other,
        }
    }
}
