//! cost-policy.yaml, the catalog it is about and price lists: read, checked, made into what
//! [`crate::decide::purchase`] decides by.
//!
//! YAML -> [`raw`] serde structs (unknown keys refused) -> [`Policy`], [`Catalog`]. Every error names the
//! file, the line, the key, what was wrong and what was expected; integration/policy/ has one broken file
//! for each.

mod build;
mod instances;
mod locate;
mod market;
pub mod raw;
mod reserve;
mod standby;
#[cfg(test)]
mod tests;
mod unlisted;

pub use unlisted::{Loaded, Unlisted};

use super::{ConfigError, Source, yaml};
use crate::decide::purchase::{Catalog, Glob, Market, type_name};
use crate::model::{HourlyPrice, PriceError, parse_milli, parse_units};
use jiff::{SignedDuration, Span};
use serde::de::DeserializeOwned;
use std::{
    cell::RefCell,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("{}:{line}: {key}: {problem}", file.display())]
    Invalid { file: PathBuf, line: u64, key: String, problem: String },
}

/// Reads the policy, for the types and zones of a catalog.
pub fn load_policy(file: &Path, catalog: &Catalog) -> Result<Loaded, ConfigError> {
    Ok(policy_of(&Source::read(file.to_owned())?, catalog)?)
}

pub fn policy_of(source: &Source, catalog: &Catalog) -> Result<Loaded, PolicyError> {
    policy_by(Checker::new(source), catalog)
}

/// As [`policy_of`], for a provider with nodes in these zones alone: it buys nothing in others.
pub fn policy_for(source: &Source, catalog: &Catalog, nodes: &[String]) -> Result<Loaded, PolicyError> {
    policy_by(Checker { nodes: Some(nodes), ..Checker::new(source) }, catalog)
}

fn policy_by(check: Checker, catalog: &Catalog) -> Result<Loaded, PolicyError> {
    let policy = build::policy(&check, check.parse()?, catalog)?;
    Ok(Loaded { policy, unlisted: check.unlisted.into_inner() })
}

/// Reads what can be bought, as [`market_of`] judges it, for no provider.
pub fn load_market(catalog: &Path, prices: Option<&Path>) -> Result<Market, ConfigError> {
    let catalog = Source::read(catalog.to_owned())?;
    let prices = prices.map(|file| Source::read(file.to_owned())).transpose()?;
    Ok(market_of(&catalog, None, prices.as_ref())?)
}

/// What can be bought by the files: a catalog, and a price list over it. `home` is the provider's region and zones: a
/// catalog without its own is about these, and one that lacks a zone of a node's is refused: nothing could ever be
/// bought there.
pub fn market_of(
    catalog: &Source,
    home: Option<(&str, &[String])>,
    prices: Option<&Source>,
) -> Result<Market, PolicyError> {
    let check = Checker::new(catalog);
    let mut market = market::catalog(&check, check.parse()?, home)?;
    let (_, nodes) = home.unwrap_or_default();
    if let Some(zone) = nodes.iter().find(|zone| !market.catalog.zones.contains(zone)) {
        let problem = format!("has no zone {zone:?}, in which there is a node");
        return Err(check.error("zones", problem));
    }
    if let Some(prices) = prices {
        let check = Checker::new(prices);
        market::prices(&check, check.parse()?, &mut market)?;
    }
    Ok(market)
}

/// A file being checked: makes values of its words, and errors that say where they stand.
struct Checker<'a> {
    file: &'a Path,
    text: &'a str,
    /// The zones of the provider's nodes. None: no provider is known.
    nodes: Option<&'a [String]>,
    /// What it has come upon: no error to the file, perhaps one to whoever uses it.
    unlisted: RefCell<Vec<Unlisted>>,
}

impl<'a> Checker<'a> {
    fn new(Source { file, text }: &'a Source) -> Self {
        Self { file, text, nodes: None, unlisted: RefCell::default() }
    }
}

impl Checker<'_> {
    fn parse<T: DeserializeOwned>(&self) -> Result<T, PolicyError> {
        yaml::parse(self.text).map_err(|yaml::Fault { key, line, column: _, problem }| PolicyError::Invalid {
            file: self.file.to_owned(),
            line,
            key,
            problem,
        })
    }

    fn error(&self, key: impl Into<String>, problem: impl Into<String>) -> PolicyError {
        let key = key.into();
        let line = locate::line_of(self.text, &key);
        PolicyError::Invalid { file: self.file.to_owned(), line, key, problem: problem.into() }
    }

    fn price(&self, key: &str, dollars: &raw::Dollars) -> Result<HourlyPrice, PolicyError> {
        dollars.0.parse().map_err(|e: PriceError| self.error(key, e.to_string()))
    }

    fn cpu(&self, key: &str, amount: &raw::Amount) -> Result<u64, PolicyError> {
        let expected = "expected a quantity of CPUs above zero, such as 2 or 500m";
        let text = &amount.0;
        parse_milli(text).filter(|n| *n > 0).ok_or_else(|| self.error(key, format!("{text:?}: {expected}")))
    }

    fn bytes(&self, key: &str, amount: &raw::Amount) -> Result<u64, PolicyError> {
        let expected = "expected a quantity of bytes above zero, such as 512Mi or 4Gi";
        let text = &amount.0;
        parse_units(text).filter(|n| *n > 0).ok_or_else(|| self.error(key, format!("{text:?}: {expected}")))
    }

    fn duration(&self, key: &str, duration: &raw::Duration) -> Result<SignedDuration, PolicyError> {
        let expected = "expected a duration above zero, such as 30s, 10m or 1h30m";
        let text = &duration.0;
        text.parse::<Span>()
            .ok()
            .and_then(|span| SignedDuration::try_from(span).ok())
            .filter(SignedDuration::is_positive)
            .ok_or_else(|| self.error(key, format!("{text:?}: {expected}")))
    }

    fn zone(&self, key: &str, zone: &str, catalog: &Catalog) -> Result<(), PolicyError> {
        if catalog.zones.iter().any(|z| z == zone) {
            return Ok(());
        }
        let expected = format!("expected a zone of the catalog: {}", catalog.zones.join(", "));
        Err(self.error(key, format!("{zone:?}: {expected}")))
    }

    /// As [`Self::zone`], for where something is to be bought.
    fn zone_of_node(&self, key: &str, zone: &str, catalog: &Catalog) -> Result<(), PolicyError> {
        self.zone(key, zone, catalog)?;
        match self.nodes {
            Some(nodes) if !nodes.iter().any(|node| node == zone) => {
                let expected = format!("expected a zone in which there is a node: {}", nodes.join(", "));
                Err(self.error(key, format!("{zone:?}: {expected}")))
            }
            _ => Ok(()),
        }
    }

    fn instance_type(&self, key: &str, name: &str, catalog: &Catalog) -> Result<(), PolicyError> {
        if catalog.types.iter().any(|t| t.name == name) {
            return Ok(());
        }
        Err(self.error(key, format!("{name:?}: expected an instance type of the catalog")))
    }

    /// As [`Self::instance_type`], for what goes by the name alone: the catalog need not have it.
    fn covered_type(&self, key: &str, name: &str, catalog: &Catalog) -> Result<(), PolicyError> {
        let exact = |glob: &Glob| glob.is_exact() && type_name::may_be_a_type(glob);
        match self.instance_type(key, name, catalog) {
            Err(_) if name.parse().is_ok_and(|glob| exact(&glob)) => {
                self.note(key, name, unlisted::Use::CoverType);
                Ok(())
            }
            judged => judged,
        }
    }

    fn note(&self, key: &str, text: &str, of: unlisted::Use) {
        let line = locate::line_of(self.text, key);
        let unlisted = Unlisted { file: self.file.to_owned(), line, key: key.to_owned(), text: text.to_owned(), of };
        self.unlisted.borrow_mut().push(unlisted);
    }

    fn percent(&self, key: &str, percent: u32) -> Result<u32, PolicyError> {
        self.within(key, percent, 0..=100)
    }

    fn within(&self, key: &str, percent: u32, range: RangeInclusive<u32>) -> Result<u32, PolicyError> {
        if range.contains(&percent) {
            return Ok(percent);
        }
        let (least, most) = range.into_inner();
        Err(self.error(key, format!("{percent}: expected a percentage from {least} to {most}")))
    }
}
