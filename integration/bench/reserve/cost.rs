//! What a reserve costs over what it stands in for, by the cost policy that is shipped.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{path::Path, process::Command};

pub struct Cost {
    pub standard: Bought,
    pub reserve: Bought,
    /// For a service that was seen to need as much memory as the policy gives to a reserve.
    pub largest: Bought,
}

pub struct Bought {
    pub instance_type: String,
    /// Dollars an hour.
    pub hourly: f64,
}

impl Cost {
    pub fn percent(&self, of: &Bought) -> f64 {
        100.0 * of.hourly / self.standard.hourly
    }
}

/// What a Pod requests that fills an instance of 2 vCPU and 4 GiB: less what the instance keeps for itself
/// (`reservedMemory`, 128 MiB). One that requests all 4 GiB gets an instance of 8.
const STANDARD: &str = "2,3968Mi";
/// The shipped policy's `sizing` and its `maxMemory`.
const RESERVES: [&str; 2] = ["100m,512Mi", "100m,1920Mi"];

/// `pilotlight simulate` prices standard Pods and reserves as the provider would buy them.
pub fn compare(program: &Path) -> Result<Cost> {
    let [usual, largest] = RESERVES.map(|reserve| price(program, reserve));
    let (usual, largest) = (usual?, largest?);
    let reserve = bought(&usual["reserve"])?;
    Ok(Cost { standard: bought(&usual["standard"])?, reserve, largest: bought(&largest["reserve"])? })
}

fn price(program: &Path, reserve: &str) -> Result<Value> {
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("provider-config/cost-policy.yaml");
    let output = Command::new(program)
        .args(["simulate", "--generate", "rare", "--services", "1", "--days", "1", "--standard", STANDARD])
        .args(["--reserve", reserve, "--output", "json", "--policy"])
        .arg(policy)
        .output()
        .with_context(|| program.display().to_string())?;
    if !output.status.success() {
        bail!("pilotlight simulate: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn bought(value: &Value) -> Result<Bought> {
    let hourly = value["hourly"].as_str().and_then(|text| text.parse().ok()).context("a price")?;
    let instance_type = value["instanceType"].as_str().context("a type")?.to_owned();
    Ok(Bought { instance_type, hourly })
}
