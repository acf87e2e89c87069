//! Why a candidate was dropped, in order of how near it came to being bought: a type for itself ([`Unfit`]), or a way
//! of paying for it somewhere ([`Why`]).

use super::policy::{Limit, Scope};
use crate::model::HourlyPrice;

/// Why a type does not do for a Pod, wherever it is and however it is paid for. Without figures, and so small: most of
/// a catalog's types are dropped so, for each Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unfit {
    NotAllowed,
    Denied,
    /// One that the class does not have.
    Architecture,
    Generation,
    Burstable,
    AboveMaxVcpu,
    AboveMaxMemory,
    NotInAnnotation,
    /// Than the Pod's.
    OtherArchitecture,
    TooSmall,
    AboveBaseline,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    Unfit(Unfit),
    NotBurstable,
    OtherZone,
    ZoneNotAllowed,
    NotOffered,
    PurchaseNotInAnnotation,
    NoReservation,
    NotSpot,
    SurplusTooDear {
        surplus: HourlyPrice,
        max: HourlyPrice,
    },
    AbovePercent {
        price: HourlyPrice,
        max: HourlyPrice,
    },
    OverCap {
        price: HourlyPrice,
        cap: HourlyPrice,
    },
    TooFewPools {
        left: u32,
        wanted: u32,
    },
    NotNeeded,
    NoAddresses,
    Quarantined,
    TooManyAttempts {
        short: u32,
    },
    /// The policy's limit of this number.
    OverLimit {
        limit: u16,
        price: HourlyPrice,
    },
}

impl Unfit {
    fn reason(self) -> &'static str {
        match self {
            Self::NotAllowed
            | Self::Denied
            | Self::Architecture
            | Self::Generation
            | Self::Burstable
            | Self::AboveMaxVcpu
            | Self::AboveMaxMemory
            | Self::OtherArchitecture => "NoInstanceTypeAllowed",
            Self::NotInAnnotation => "NarrowedAway",
            Self::TooSmall | Self::AboveBaseline => "NoInstanceTypeFits",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::NotAllowed => "is not among the class's instances",
            Self::Denied => "is denied",
            Self::Architecture => "has an architecture that the class does not allow",
            Self::OtherArchitecture => "has another architecture than the Pod",
            Self::Generation => "is of an older generation than allowed",
            Self::Burstable => "is burstable, which the class does not allow",
            Self::AboveMaxVcpu => "has more vCPUs than maxVcpu",
            Self::AboveMaxMemory => "has more memory than maxMemory",
            Self::NotInAnnotation => "is excluded by the Pod's annotations",
            Self::TooSmall => "is too small",
            Self::AboveBaseline => "has too low a CPU baseline for standard credits",
        }
    }
}

impl Why {
    /// A CamelCase reason, for status and events.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unfit(unfit) => unfit.reason(),
            Self::NotBurstable => "NoInstanceTypeAllowed",
            Self::PurchaseNotInAnnotation => "NarrowedAway",
            Self::ZoneNotAllowed | Self::OtherZone => "NoZoneAllowed",
            Self::NotOffered => "NotOfferedInZone",
            Self::NoReservation => "NoCapacityReservation",
            Self::NotSpot => "NotOfferedAsSpot",
            Self::SurplusTooDear { .. } | Self::AbovePercent { .. } | Self::OverCap { .. } => "PriceCapExceeded",
            Self::TooFewPools { .. } => "TooFewSpotPools",
            Self::NotNeeded => "OnlyAfterCapacityShortage",
            Self::NoAddresses => "InsufficientFreeAddresses",
            Self::Quarantined | Self::TooManyAttempts { .. } => "InsufficientInstanceCapacity",
            Self::OverLimit { .. } => "CostLimitReached",
        }
    }

    /// What was too dear, and how dear; 0 where price was not the matter.
    pub fn figure(self) -> HourlyPrice {
        match self {
            Self::SurplusTooDear { surplus, .. } => surplus,
            Self::AbovePercent { price, .. } | Self::OverCap { price, .. } | Self::OverLimit { price, .. } => price,
            _ => HourlyPrice::default(),
        }
    }

    /// The same whatever was to be bought.
    pub fn of_any_price(self) -> Self {
        let price = HourlyPrice::default();
        match self {
            Self::AbovePercent { max, .. } => Self::AbovePercent { price, max },
            Self::OverCap { cap, .. } => Self::OverCap { price, cap },
            Self::OverLimit { limit, .. } => Self::OverLimit { limit, price },
            other => other,
        }
    }

    /// It speaks of a shortage that may pass, not of the policy's will.
    pub fn is_shortage(self) -> bool {
        matches!(
            self,
            Self::Quarantined
                | Self::TooManyAttempts { .. }
                | Self::TooFewPools { .. }
                | Self::NoAddresses
                | Self::NotSpot
        )
    }

    pub fn message(self, limits: &[Limit]) -> String {
        match self {
            Self::Unfit(unfit) => unfit.message().to_owned(),
            Self::NotBurstable => "is not burstable".to_owned(),
            Self::ZoneNotAllowed => "the class does not allow the zone".to_owned(),
            Self::OtherZone => "the Pod must run in another zone".to_owned(),
            Self::NotOffered => "the zone does not have the type".to_owned(),
            Self::PurchaseNotInAnnotation => "is excluded by the Pod's annotations".to_owned(),
            Self::NoReservation => "no capacity reservation is free".to_owned(),
            Self::NotSpot => "no spot price is known".to_owned(),
            Self::SurplusTooDear { surplus, max } => {
                format!("surplus credits of ${surplus}/h are above maxSurplusPerHour {max}")
            }
            Self::AbovePercent { price, max } => {
                format!("${price}/h is above maxPercentOfOnDemand, which is ${max}/h here")
            }
            Self::OverCap { price, cap } => format!("${price}/h is above the price cap of ${cap}/h"),
            Self::TooFewPools { left, wanted } => format!("{left} pools are left, minPools is {wanted}"),
            Self::NotNeeded => "only after a shortage of capacity, and there was none".to_owned(),
            Self::NoAddresses => "the zone's subnets have no free address".to_owned(),
            Self::Quarantined => "had no capacity lately".to_owned(),
            Self::TooManyAttempts { short } => {
                format!("{short} pools had no capacity lately: as many as maxAttempts")
            }
            Self::OverLimit { limit, price } => match limits.get(usize::from(limit)) {
                Some(limit) => format!("${price}/h more would exceed the {}", limit_name(limit)),
                None => format!("${price}/h more would exceed a limit"),
            },
        }
    }
}

fn limit_name(limit: &Limit) -> String {
    let scope = match &limit.scope {
        Scope::Cluster => "cluster's limit".to_owned(),
        Scope::Namespace(name) => format!("limit of namespace {name}"),
        Scope::Class(name) => format!("limit of class {name}"),
    };
    let hourly = limit.max_hourly.map(|max| format!("${max}/h"));
    let instances = limit.max_instances.map(|max| format!("{max} instances"));
    let amounts: Vec<String> = hourly.into_iter().chain(instances).collect();
    format!("{scope} ({})", amounts.join(", "))
}
