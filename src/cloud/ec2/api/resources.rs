//! What instances may leave, and launch templates, to be found and deleted.

use super::super::{
    leaks::Leak,
    limits::Kind,
    refusal::{Refusal, Verdict},
    template::name_prefix,
};
use super::{Api, filter, more, of_cluster};
use crate::model::InstanceId;
use std::collections::BTreeSet;

const PAGE: i32 = 500;
/// "DescribeLaunchTemplates" gives at most so many.
const TEMPLATES_PAGE: i32 = 200;

impl Api {
    /// Volumes and network interfaces of the cluster that are attached to nothing.
    pub async fn detached(&self, cluster: &str) -> Result<BTreeSet<Leak>, Refusal> {
        let filters = vec![of_cluster(cluster), filter("status", "available")];
        let mut found = BTreeSet::new();
        let mut next = None;
        loop {
            self.limits.take(Kind::Describe, 1).await;
            let volumes = self.client.describe_volumes().set_filters(Some(filters.clone()));
            let sent = volumes.max_results(PAGE).set_next_token(next).send().await;
            let page = self.answer(Kind::Describe, sent)?;
            found.extend(page.volumes().iter().filter_map(|v| Some(Leak::Volume(v.volume_id()?.to_owned()))));
            next = more(page.next_token());
            if next.is_none() {
                break;
            }
        }
        loop {
            self.limits.take(Kind::Describe, 1).await;
            let interfaces = self.client.describe_network_interfaces().set_filters(Some(filters.clone()));
            let sent = interfaces.max_results(PAGE).set_next_token(next).send().await;
            let page = self.answer(Kind::Describe, sent)?;
            let ids = page.network_interfaces().iter().filter_map(|i| i.network_interface_id());
            found.extend(ids.map(|id| Leak::NetworkInterface(id.to_owned())));
            next = more(page.next_token());
            if next.is_none() {
                return Ok(found);
            }
        }
    }

    /// The cluster's launch templates, by name.
    pub async fn templates(&self, cluster: &str) -> Result<Vec<String>, Refusal> {
        let prefix = name_prefix(cluster);
        let (mut found, mut next) = (Vec::new(), None);
        loop {
            self.limits.take(Kind::Describe, 1).await;
            let templates = self.client.describe_launch_templates().filters(of_cluster(cluster));
            let sent = templates.max_results(TEMPLATES_PAGE).set_next_token(next).send().await;
            let page = self.answer(Kind::Describe, sent)?;
            let names = page.launch_templates().iter().filter_map(|t| t.launch_template_name());
            found.extend(names.filter(|name| name.starts_with(&prefix)).map(str::to_owned));
            next = more(page.next_token());
            if next.is_none() {
                return Ok(found);
            }
        }
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
