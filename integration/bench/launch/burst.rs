//! One burst: Pods created at once, watched until all run, then deleted, and what that took.

use crate::{
    audit,
    ec2::{Calls, StandIn},
    pods::{self, All, Seen},
    procs::{self, Memory},
};
use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::json;
use std::{
    path::Path,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// Create calls under way at once.
const AT_ONCE: usize = 64;
/// The /proc clock's ticks are 10 ms: enough of them for a per mille of a processor.
const WINDOW: Duration = Duration::from_secs(20);
/// Far above what anything here takes: reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(900);

pub struct Burst<'a> {
    pub api: &'a Api<Pod>,
    pub standin: &'a StandIn,
    /// The test cluster's directory.
    pub state: &'a Path,
    pub name: &'static str,
    pub pods: usize,
}

pub struct Measured {
    pub name: &'static str,
    pub pods: usize,
    /// From before the first was created, of each Pod, the earliest first.
    pub steps: Steps,
    /// Until the last Pod ran.
    pub calls: Calls,
    /// Until the last Pod was gone.
    pub calls_in_the_end: Calls,
    pub idle: Memory,
    pub running: Memory,
    /// Of the provider, until the last Pod ran.
    pub processor_time: Duration,
    /// Of one processor, while all run and nothing happens.
    pub at_rest: f64,
    /// From before the first creation to after the last deletion.
    pub requests: audit::Requests,
}

#[derive(Default)]
pub struct Steps {
    pub scheduled: Vec<Duration>,
    pub bound: Vec<Duration>,
    pub running: Vec<Duration>,
}

impl Burst<'_> {
    pub async fn measure(&self) -> Result<Measured> {
        let (seen, _watch) = pods::follow(self.api.clone());
        let process = procs::recorded(&self.state.join("provider/pid"))?;
        procs::quiet().await?;
        self.standin.begin().await?;
        let log = audit::Log::at_its_end(&self.state.join("audit.log"))?;
        let (idle, cpu) = (procs::memory(process)?, procs::cpu(process)?);

        let began = Instant::now();
        let names = (0..self.pods).map(|number| format!("{}-{number:04}", self.name));
        let create = |name: String| async move {
            let metadata = json!({ "name": name, "labels": { "burst": self.name } });
            let pod = pods::pod(metadata, json!({ "nodeSelector": { "type": "virtual-kubelet" } }))?;
            self.api.create(&PostParams::default(), &pod).await.with_context(|| format!("create Pod {name}"))?;
            anyhow::Ok(())
        };
        futures::stream::iter(names).map(create).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
        println!("  created after {:.1} s", began.elapsed().as_secs_f64());
        self.until(&seen, "Running", |pod| pod.running.is_some()).await?;
        let processor_time = procs::cpu(process)?.saturating_sub(cpu);
        println!("  all Running after {:.1} s", began.elapsed().as_secs_f64());
        let calls = self.standin.calls().await?;
        let steps = Steps {
            scheduled: self.times(&seen, began, |pod| pod.scheduled),
            bound: self.times(&seen, began, |pod| pod.bound),
            running: self.times(&seen, began, |pod| pod.running),
        };
        let running = procs::memory(process)?;
        let (cpu, window) = (procs::cpu(process)?, Instant::now());
        tokio::time::sleep(WINDOW).await; // a window of measurement, not a wait for something
        let at_rest = (procs::cpu(process)?.saturating_sub(cpu)).as_secs_f64() / window.elapsed().as_secs_f64();

        let ours = ListParams::default().labels(&format!("burst={}", self.name));
        let grace = DeleteParams { grace_period_seconds: Some(1), ..DeleteParams::default() };
        self.api.delete_collection(&grace, &ours).await.context("delete the Pods")?;
        self.until(&seen, "gone", |pod| pod.gone.is_some()).await?;
        self.standin.until_nothing_is_left().await?;
        Ok(Measured {
            name: self.name,
            pods: self.pods,
            steps,
            calls,
            calls_in_the_end: self.standin.calls().await?,
            idle,
            running,
            processor_time,
            at_rest,
            requests: log.since(&audit::Of::pilotlight()).context("the audit log")?,
        })
    }

    fn own<'a>(&'a self, all: &'a All) -> impl Iterator<Item = &'a Seen> {
        all.iter().filter(|(name, _)| name.starts_with(self.name)).map(|(_, seen)| seen)
    }

    async fn until(&self, seen: &watch::Receiver<All>, what: &str, is_so: impl Fn(&Seen) -> bool) -> Result<()> {
        let count = |all: &All| self.own(all).filter(|seen| is_so(seen)).count();
        let mut watched = seen.clone();
        let reached = tokio::time::timeout(PATIENCE, watched.wait_for(|all| count(all) == self.pods)).await;
        match reached {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => bail!("the watch ended"),
            Err(_) => bail!("{} of {} Pods are {what} after {PATIENCE:?}", count(&seen.borrow()), self.pods),
        }
    }

    fn times(
        &self,
        seen: &watch::Receiver<All>,
        began: Instant,
        of: impl Fn(&Seen) -> Option<Instant>,
    ) -> Vec<Duration> {
        let mut times: Vec<Duration> = self.own(&seen.borrow()).filter_map(|pod| Some(of(pod)? - began)).collect();
        times.sort();
        times
    }
}
