//! The floor: instances and nothing else. As few calls as EC2 takes well, no Pod, no scheduler, no provider, no agent.

use crate::ec2::{Calls, StandIn};
use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use std::time::{Duration, Instant};

/// As the provider's calls (cloud.ec2.launches.perCall).
const A_CALL: usize = 100;
/// Far above what anything here takes: reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(180);

pub struct Raw {
    pub instances: usize,
    /// Until every call was answered, and until every machine was up.
    pub launched: Duration,
    pub booted: Duration,
    pub calls: Calls,
}

pub async fn measure(standin: &StandIn, cluster: &str, instances: usize) -> Result<Raw> {
    standin.begin().await?;
    let facts = standin.facts().await?;
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned).context("facts of the stand-in");
    let (subnet, image) = (text(&facts["subnets"]["us-east-1a"])?, text(&facts["image"])?);
    // Without the cluster's tag the policy would not allow them.
    let tagged = |(n, kind): (usize, &str)| {
        let tag = format!("Tag.1.Key=pilotlight.dev/cluster&TagSpecification.{n}.Tag.1.Value={cluster}");
        format!("&TagSpecification.{n}.ResourceType={kind}&TagSpecification.{n}.{tag}")
    };
    let tags: String = [(1, "instance"), (2, "network-interface"), (3, "volume")].into_iter().map(tagged).collect();
    let began = Instant::now();
    let calls = (0..instances).step_by(A_CALL).map(|from| {
        let count = A_CALL.min(instances - from);
        let request = format!(
            "Action=RunInstances&InstanceType=c6i.large&ImageId={image}&MinCount={count}&MaxCount={count}\
             &NetworkInterface.1.DeviceIndex=0&NetworkInterface.1.SubnetId={subnet}\
             &NetworkInterface.1.SecondaryPrivateIpAddressCount=1{tags}"
        );
        async move { standin.api(&request).await }
    });
    let answers = try_join_all(calls).await?;
    let launched = began.elapsed();
    let ids: Vec<&str> = answers.iter().flat_map(|answer| texts(answer, "instanceId")).collect();
    if ids.len() != instances {
        bail!("{} of {instances} instances were launched", ids.len());
    }
    while standin.calls().await?.number("booted") < instances as u64 {
        if began.elapsed() > PATIENCE {
            bail!("the machines are not up after {PATIENCE:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let booted = began.elapsed();
    let calls = standin.calls().await?;
    let named: String = ids.iter().enumerate().map(|(n, id)| format!("&InstanceId.{}={id}", n + 1)).collect();
    standin.api(&format!("Action=TerminateInstances{named}")).await?;
    standin.until_nothing_is_left().await?;
    Ok(Raw { instances, launched, booted, calls })
}

/// The texts of all elements of this name.
fn texts<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&open).skip(1).filter_map(|rest| Some(rest.split_once(&close)?.0)).collect()
}
