//! `scripts/bench startup`: how fast a Pod starts and ends, and what the provider costs meanwhile.
//!
//! Four ways to the same container, in interleaved rounds on one machine, so that whatever else the
//! machine does falls on all of them:
//!
//! ```text
//!   raw      CRI calls to a containerd of its own        the floor: sandbox, container, start
//!   kubelet  a Pod on the real kubelet's node            the neighbour
//!   warm     a Pod on pilotlight-local-a                 an instance is on standby there
//!   boot     a Pod on pilotlight-local-b                 an instance must boot first
//! ```
//!
//! A start is measured from before the create call until one watch shows the Pod Running; an end from
//! before the delete call (1 s of grace, which `sleep` as PID 1 uses up) until the watch shows it gone.
//! A kubelet gives no less than 2 s (kuberuntime: minimumGracePeriodInSeconds), and so does the agent.
//! Then a batch of Pods on either node: memory, CPU time, and the requests that the API server's audit
//! log shows. Prints a table, writes JSON, judges nothing: figures depend on the machine.

mod audit;
mod pods;
#[allow(dead_code, reason = "shared with another bench")]
mod procs;
mod raw;
mod report;
mod start;

use anyhow::{Context, Result, bail};
use clap::Parser;
use report::{Batch, Load, Report, Series};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

const KUBELET: &str = "kubelet";
const WARM: &str = "pilotlight-local-a";
const BOOT: &str = "pilotlight-local-b";
/// As scripts/bench configures it.
const STANDBY: usize = 2;
/// Long enough for the /proc clock's 10 ms ticks to tell a per mille of a processor.
const WINDOW: Duration = Duration::from_secs(20);

#[derive(Parser)]
struct Args {
    /// The test cluster's directory
    #[arg(long)]
    state: PathBuf,
    /// The test cluster's name
    #[arg(long)]
    cluster: String,
    /// The socket of a containerd that nobody else uses
    #[arg(long)]
    raw_socket: PathBuf,
    /// Where the JSON goes
    #[arg(long)]
    out: PathBuf,
    /// Tries of each kind
    #[arg(long, default_value_t = 15)]
    tries: usize,
    /// Pods in the batch
    #[arg(long, default_value_t = 50)]
    batch: usize,
}

fn main() -> Result<()> {
    start::start("a test cluster: run scripts/bench startup", run)
}

async fn run(args: Args) -> Result<()> {
    let pods = pods::Pods::connect().await?;
    let raw = raw::Raw::connect(&args.raw_socket).await?;
    let machine = procs::Machine::new(&args.cluster);
    let provider = procs::recorded(&args.state.join("provider/pid"))?;
    let kubelet = procs::recorded(&args.state.join("run/kubelet.pid"))?;

    let mut report = Report::new(args.tries, args.batch);
    // One of each, not counted: caches fill.
    for round in 0..=args.tries {
        for kind in 0..4 {
            if !machine.settle(STANDBY).await? {
                report.noisy += 1;
            }
            let name = format!("try-{round}-{kind}");
            let (series, start, end) = match kind {
                0 => {
                    let (start, end) = raw.try_once(&name).await?;
                    (&mut report.raw, start, end)
                }
                1 => measure(&pods, &name, KUBELET, &mut report.kubelet).await?,
                2 => measure(&pods, &name, WARM, &mut report.warm).await?,
                _ => measure(&pods, &name, BOOT, &mut report.boot).await?,
            };
            if round > 0 {
                series.add(start, end);
            }
        }
        println!("round {round} of {}: {}", args.tries, report.last());
    }

    println!("a batch of {} Pods on the kubelet's node", args.batch);
    report.batch_kubelet = Some(batch(&args, &pods, &machine, KUBELET, kubelet, &audit::Of::kubelet()).await?);
    println!("a batch of {} Pods on {BOOT}", args.batch);
    report.batch_pilotlight = Some(batch(&args, &pods, &machine, BOOT, provider, &audit::Of::pilotlight()).await?);

    report.print();
    report.write(&args.out)?;
    println!("\n{}", args.out.display());
    Ok(())
}

async fn measure<'a>(
    pods: &pods::Pods,
    name: &str,
    node: &str,
    series: &'a mut Series,
) -> Result<(&'a mut Series, Duration, Duration)> {
    let start = pods.start(name, node).await?;
    let end = pods.end(name).await?;
    Ok((series, start, end))
}

/// One Pod for a while, then many: what `process` takes for them, and what it asks of the API server.
async fn batch(
    args: &Args,
    pods: &pods::Pods,
    machine: &procs::Machine,
    node: &str,
    process: u32,
    who: &audit::Of,
) -> Result<Batch> {
    machine.settle(STANDBY).await?;
    let idle = procs::memory(process)?;

    let single = format!("single-{node}");
    pods.start(&single, node).await?;
    let one = load(process).await?;
    pods.end(&single).await?;
    machine.settle(STANDBY).await?;

    let log = audit::Log::at_its_end(&args.state.join("audit.log"))?;
    let names: Vec<String> = (0..args.batch).map(|number| format!("batch-{node}-{number}")).collect();
    let (cpu, began) = (procs::cpu(process)?, Instant::now());
    let all = futures::future::join_all(names.iter().map(|name| pods.start(name, node))).await;
    all.into_iter().collect::<Result<Vec<_>>>()?;
    let to_all_running = began.elapsed();
    let many = load(process).await?;
    let agents = if node == KUBELET { Vec::new() } else { machine.agents()? };
    if node != KUBELET && agents.len() < args.batch {
        bail!("{} agents run for {} Pods", agents.len(), args.batch);
    }
    let agents = agents.into_iter().map(procs::memory).collect::<Result<Vec<_>>>()?;
    let all = futures::future::join_all(names.iter().map(|name| pods.end(name))).await;
    all.into_iter().collect::<Result<Vec<_>>>()?;
    let cpu = procs::cpu(process)? - cpu - many.processor_time;
    machine.settle(STANDBY).await?;
    let requests = log.since(who).context("the audit log")?;
    Ok(Batch {
        pods: args.batch,
        idle,
        one,
        many,
        to_all_running,
        cpu_birth_to_death: cpu,
        high_water: procs::memory(process)?.high_water,
        agents,
        requests,
    })
}

/// Memory now, and processor time over a window in which nothing is asked of it.
async fn load(process: u32) -> Result<Load> {
    let (cpu, began) = (procs::cpu(process)?, Instant::now());
    tokio::time::sleep(WINDOW).await; // a window of measurement, not a wait for something
    let processor_time = procs::cpu(process)? - cpu;
    let processor = processor_time.as_secs_f64() / began.elapsed().as_secs_f64();
    Ok(Load { memory: procs::memory(process)?, processor_time, processor })
}
