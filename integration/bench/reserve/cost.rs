//! What a reserve costs over what it stands in for, by the cost policy that is shipped.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{path::Path, process::Command};

pub struct Cost {
    pub standard: Bought,
    pub reserve: Bought,
}

pub struct Bought {
    pub instance_type: String,
    /// Dollars an hour.
    pub hourly: f64,
}

impl Cost {
    pub fn percent(&self) -> f64 {
        100.0 * self.reserve.hourly / self.standard.hourly
    }
}

/// Of Pods of 2 vCPU and 4 GiB, and their reserves: `pilotlight simulate` prices both as the provider would buy them.
pub fn compare(program: &Path) -> Result<Cost> {
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("provider-config/cost-policy.yaml");
    let output = Command::new(program)
        .args(["simulate", "--generate", "rare", "--services", "1", "--days", "1", "--standard", "2,4Gi"])
        .args(["--output", "json", "--policy"])
        .arg(policy)
        .output()
        .with_context(|| program.display().to_string())?;
    if !output.status.success() {
        bail!("pilotlight simulate: {}", String::from_utf8_lossy(&output.stderr));
    }
    let report: Value = serde_json::from_slice(&output.stdout)?;
    Ok(Cost { standard: bought(&report["standard"])?, reserve: bought(&report["reserve"])? })
}

fn bought(value: &Value) -> Result<Bought> {
    let hourly = value["hourly"].as_str().and_then(|text| text.parse().ok()).context("a price")?;
    let instance_type = value["instanceType"].as_str().context("a type")?.to_owned();
    Ok(Bought { instance_type, hourly })
}
