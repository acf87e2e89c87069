//! What EC2's error codes mean: to what each applies, and what is done about it. Pure.
//!
//! | verdict | what follows |
//! |---|---|
//! | `Pool` | this type in this zone, bought this way, is left alone for a while |
//! | `Spot` | all of spot is |
//! | `Quota` | every type that counts against the same vCPU quota is |
//! | `Subnet` | the zone's next subnet is tried; after the last, the zone is left alone |
//! | `BackOff` | the same call again, later: nothing is wrong with the pool |
//! | `Denied` | nothing can be done until the account's rights are other ones |
//! | `Refused` | the request is wrong: the class that asked for it fails |
//! | `NotFound` | an id that is not known yet, or not any more |
//! | `TemplateGone` | the launch template is made again |
//!
//! Sources: AWS, "Error codes for the Amazon EC2 API"; the codes that karpenter-provider-aws takes for a
//! lack of capacity (pkg/errors).

use crate::model::{Offer, Purchase, Shortage};
use crate::ports::CloudError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pool,
    Spot,
    Quota,
    Subnet,
    BackOff,
    Denied,
    Refused,
    NotFound,
    TemplateGone,
}

/// What EC2 answered instead of doing what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    pub code: String,
    pub message: String,
    pub verdict: Verdict,
}

/// Our code where AWS gave none.
const UNANSWERED: &str = "Unanswered";

impl Refusal {
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        let code = code.into();
        let message = match code.as_str() {
            // AWS then tells what should have been signed, and the session's token is in that.
            "SignatureDoesNotMatch" | "InvalidSignatureException" | "IncompleteSignature" => {
                "the request's signature is not accepted".to_owned()
            }
            _ => message.into(),
        };
        // "Your requested instance type (…) is not supported in your requested Availability Zone (…)": a fleet says so with a
        // code that it has for mistakes too. RunInstances says Unsupported.
        let not_there = code == "InvalidFleetConfiguration" && message.contains("not supported in your requested");
        let verdict = if not_there { Verdict::Pool } else { classify(&code) };
        Self { verdict, code, message }
    }

    /// The call did not come to an answer; whether EC2 did what was asked is not known.
    pub fn unanswered(message: impl Into<String>) -> Self {
        Self { code: UNANSWERED.to_owned(), message: message.into(), verdict: Verdict::BackOff }
    }

    pub fn is_unanswered(&self) -> bool {
        self.code == UNANSWERED
    }

    /// It is about what may be done. The other denials are about who asks, for whatever is asked, and may pass.
    pub fn is_of_a_right(&self) -> bool {
        self.code == "UnauthorizedOperation"
    }

    /// There is nobody to sign as.
    pub fn no_credentials(message: impl Into<String>) -> Self {
        Self { code: "NoCredentials".to_owned(), message: message.into(), verdict: Verdict::Denied }
    }

    pub fn cloud_error(&self, operation: &'static str) -> CloudError {
        let (code, message) = (self.code.clone(), self.to_string());
        match self.verdict {
            Verdict::Denied | Verdict::Refused => CloudError::Refused { operation, code, message },
            _ => CloudError::Retry { operation, code, message },
        }
    }
}

pub fn classify(code: &str) -> Verdict {
    match code {
        "InsufficientInstanceCapacity"
        | "InsufficientCapacity"
        | "InsufficientHostCapacity"
        | "InsufficientReservedInstanceCapacity"
        | "InsufficientCapacityOnOutpost"
        | "InsufficientVolumeCapacity"
        | "ReservationCapacityExceeded"
        | "UnfulfillableCapacity"
        | "SpotMaxPriceTooLow"
        | "Unsupported"
        | "UnsupportedOperation" => Verdict::Pool,
        "MaxSpotInstanceCountExceeded" | "SpotInstanceCountExceeded" => Verdict::Spot,
        "VcpuLimitExceeded" | "InstanceLimitExceeded" => Verdict::Quota,
        "InsufficientFreeAddressesInSubnet" | "InsufficientAddressCapacity" => Verdict::Subnet,
        // A limit on calls or on what is open at once passes by itself.
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "EC2ThrottledException"
        | "TooManyRequestsException"
        | "RequestResourceCountExceeded"
        | "ResourceCountExceeded"
        | "MaxFleetCountExceeded"
        | "ConcurrentCreateImageNoRebootLimitExceeded"
        | "InternalError"
        | "InternalFailure"
        | "Unavailable"
        | "ServiceUnavailable"
        | "RequestTimeout"
        | "IncorrectState"
        | "IncorrectInstanceState" => Verdict::BackOff,
        "AuthFailure"
        | "UnauthorizedOperation"
        | "AccessDenied"
        | "AccessDeniedException"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "IncompleteSignature"
        | "SignatureDoesNotMatch"
        | "MissingAuthenticationToken"
        | "InvalidAccessKeyId"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "OptInRequired"
        | "Blocked"
        | "PendingVerification"
        | "ValidationError" => Verdict::Denied,
        "InvalidInstanceID.NotFound"
        | "InvalidVolume.NotFound"
        | "InvalidNetworkInterfaceID.NotFound"
        | "InvalidNetworkInterface.NotFound" => Verdict::NotFound,
        "InvalidLaunchTemplateId.NotFound"
        | "InvalidLaunchTemplateId.NotFoundException"
        | "InvalidLaunchTemplateName.NotFound"
        | "InvalidLaunchTemplateName.NotFoundException"
        | "InvalidLaunchTemplateId.VersionNotFound" => Verdict::TemplateGone,
        _ => Verdict::Refused,
    }
}

/// What is not to be asked for again soon. Empty where the fault is not one of capacity.
pub fn shortages(refusal: &Refusal, offer: &Offer, zone: &str, types: &[&str]) -> Vec<Shortage> {
    let row = |purchase: Option<Purchase>, instance_type: Option<&str>, zone: Option<&str>| Shortage {
        purchase,
        instance_type: instance_type.map(str::to_owned),
        zone: zone.map(str::to_owned),
        code: refusal.code.clone(),
        message: refusal.message.clone(),
    };
    match refusal.verdict {
        Verdict::Pool => vec![row(Some(offer.purchase), Some(&offer.instance_type), Some(zone))],
        Verdict::Spot => vec![row(Some(Purchase::Spot), None, None)],
        Verdict::Subnet => vec![row(None, None, Some(zone))],
        // Spot has quotas of its own; on demand, burstable and reserved count against one.
        Verdict::Quota if offer.purchase == Purchase::Spot => vec![row(Some(Purchase::Spot), None, None)],
        Verdict::Quota => {
            let same = |name: &&&str| quota_group(name) == quota_group(&offer.instance_type);
            let bought = [Purchase::OnDemand, Purchase::Burstable];
            let of = |name: &&str| bought.map(|purchase| row(Some(purchase), Some(*name), None));
            types.iter().filter(same).flat_map(of).collect()
        }
        Verdict::BackOff | Verdict::Denied | Verdict::Refused | Verdict::NotFound | Verdict::TemplateGone => Vec::new(),
    }
}

/// Which vCPU quota a type counts against (AWS, "Amazon EC2 instance type quotas").
pub fn quota_group(instance_type: &str) -> &'static str {
    let family = instance_type.split('.').next().unwrap_or(instance_type);
    let letters = &family[..family.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(family.len())];
    match letters {
        "a" | "c" | "d" | "h" | "i" | "im" | "is" | "m" | "r" | "t" | "z" => "standard",
        "dl" => "dl",
        "f" => "f",
        "g" | "gr" | "vt" => "g and vt",
        "hpc" => "hpc",
        "inf" => "inf",
        "p" => "p",
        "trn" => "trn",
        "u" => "high memory",
        "x" => "x",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HourlyPrice;

    fn offer(instance_type: &str, purchase: Purchase) -> Offer {
        Offer { instance_type: instance_type.to_owned(), purchase, price: HourlyPrice(1) }
    }

    #[test]
    fn every_code_that_launches_are_known_to_get_has_its_verdict() {
        for (code, verdict) in [
            ("InsufficientInstanceCapacity", Verdict::Pool),
            ("Unsupported", Verdict::Pool),
            ("UnfulfillableCapacity", Verdict::Pool),
            ("ReservationCapacityExceeded", Verdict::Pool),
            ("InsufficientHostCapacity", Verdict::Pool),
            ("MaxSpotInstanceCountExceeded", Verdict::Spot),
            ("VcpuLimitExceeded", Verdict::Quota),
            ("InstanceLimitExceeded", Verdict::Quota),
            ("InsufficientFreeAddressesInSubnet", Verdict::Subnet),
            ("RequestLimitExceeded", Verdict::BackOff),
            ("MaxFleetCountExceeded", Verdict::BackOff),
            ("InternalError", Verdict::BackOff),
            ("Unavailable", Verdict::BackOff),
            ("AuthFailure", Verdict::Denied),
            ("UnauthorizedOperation", Verdict::Denied),
            ("ExpiredToken", Verdict::Denied),
            ("InvalidParameterValue", Verdict::Refused),
            ("InvalidAMIID.NotFound", Verdict::Refused),
            ("InvalidSubnetID.NotFound", Verdict::Refused),
            ("IdempotentParameterMismatch", Verdict::Refused),
            ("InvalidInstanceID.NotFound", Verdict::NotFound),
            ("InvalidLaunchTemplateName.NotFoundException", Verdict::TemplateGone),
            ("ACodeOfNextYear", Verdict::Refused),
        ] {
            assert_eq!(classify(code), verdict, "{code}");
        }
    }

    #[test]
    fn a_type_that_a_zone_does_not_have_is_short_there_whatever_a_fleet_calls_it() {
        let told = "Your requested instance type (c7i.large) is not supported in your requested Availability Zone (us-east-1e).";
        assert_eq!(Refusal::new("InvalidFleetConfiguration", told).verdict, Verdict::Pool);
        let mistake = "The fleet configuration contains duplicate instance pools";
        assert_eq!(Refusal::new("InvalidFleetConfiguration", mistake).verdict, Verdict::Refused);
    }

    #[test]
    fn what_is_short_is_the_pool_or_the_zone_or_all_of_spot() {
        let of = |code: &str, purchase| {
            let found = shortages(&Refusal::new(code, "m"), &offer("c6i.large", purchase), "a", &["c6i.large"]);
            found.into_iter().map(|s| (s.purchase, s.instance_type, s.zone)).collect::<Vec<_>>()
        };
        let (ice, spot) = ("InsufficientInstanceCapacity", Purchase::Spot);
        assert_eq!(of(ice, spot), [(Some(spot), Some("c6i.large".to_owned()), Some("a".to_owned()))]);
        assert_eq!(of("MaxSpotInstanceCountExceeded", spot), [(Some(spot), None, None)]);
        assert_eq!(of("InsufficientFreeAddressesInSubnet", spot), [(None, None, Some("a".to_owned()))]);
        assert_eq!(of("VcpuLimitExceeded", spot), [(Some(spot), None, None)]);
    }

    #[test]
    fn a_quota_of_vcpus_holds_for_all_types_of_its_group_in_every_zone_and_not_for_spot() {
        let types = ["c6i.large", "t3.micro", "p5.48xlarge", "g5.xlarge"];
        let found =
            shortages(&Refusal::new("VcpuLimitExceeded", "m"), &offer("m7i.large", Purchase::OnDemand), "a", &types);
        let mut named: Vec<&str> = found.iter().filter_map(|s| s.instance_type.as_deref()).collect();
        named.dedup();
        assert_eq!(named, ["c6i.large", "t3.micro"]);
        assert!(found.iter().all(|s| s.zone.is_none() && s.purchase != Some(Purchase::Spot) && s.purchase.is_some()));
    }

    #[test]
    fn what_should_have_been_signed_is_not_repeated() {
        let told = "The Canonical String for this request should have been 'POST … x-amz-security-token:SECRET'";
        for code in ["SignatureDoesNotMatch", "InvalidSignatureException"] {
            assert!(!Refusal::new(code, told).to_string().contains("SECRET"));
        }
    }

    #[test]
    fn throttling_and_broken_credentials_say_nothing_about_any_pool() {
        for code in ["RequestLimitExceeded", "AuthFailure", "InvalidParameterValue", "InternalError"] {
            let found = shortages(&Refusal::new(code, "m"), &offer("c6i.large", Purchase::Spot), "a", &["c6i.large"]);
            assert_eq!(found, [], "{code}");
        }
    }

    #[test]
    fn a_refusal_is_tried_again_unless_the_request_or_the_rights_are_wrong() {
        for (code, again) in
            [("RequestLimitExceeded", true), ("InternalError", true), ("AuthFailure", false), ("Invalid", false)]
        {
            let error = Refusal::new(code, "m").cloud_error("launch");
            assert_eq!(matches!(error, CloudError::Retry { .. }), again, "{code}");
            assert!(error.to_string().contains(code));
        }
    }
}
