//! The tags of an instance, written at its launch and never later: the record that outlives this process. Pure.
//!
//! | tag | what |
//! |---|---|
//! | `pilotlight.dev/cluster`, `node`, `batch`, `class` | as asked |
//! | `…/token` | the launch's client token: who asks again with it gets these instances |
//! | `…/request` | of what was asked: the same token with another request is refused |
//! | `…/purchase` | how it is paid for |
//! | `…/prices`, `prices-2`, … | what each type that it might have become costs: `c6i.large=85000 …`, in micro-dollars an hour |
//!
//! A fleet chooses the type itself and gives all its instances the same tags: so the prices of all.

use crate::model::{HourlyPrice, LaunchRequest, Offer, Purchase};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

pub const TOKEN: &str = "pilotlight.dev/token";
pub const REQUEST: &str = "pilotlight.dev/request";
pub const PURCHASE: &str = "pilotlight.dev/purchase";
const PRICES: &str = "pilotlight.dev/prices";
/// All of ours begin so; nobody else's may.
pub const PREFIX: &str = "pilotlight.dev/";

/// AWS, "Tag restrictions".
pub const LONGEST_KEY: usize = 128;
pub const LONGEST_VALUE: usize = 256;
const MOST_TAGS: usize = 50;
/// Seven are ours, and up to [`MOST_PRICE_TAGS`].
pub const MOST_OF_THE_USER: usize = MOST_TAGS - 7 - MOST_PRICE_TAGS;
/// Room for the prices of some hundred types.
const MOST_PRICE_TAGS: usize = 13;

/// Tells requests with the same token apart.
pub fn fingerprint(request: &LaunchRequest) -> String {
    let text = serde_json::to_vec(request).expect("a request is plain data");
    hex(&Sha256::digest(text))[..16].to_owned()
}

/// The token of one call to EC2: of a launch, a part of it, and the number of the attempt.
pub fn call_token(request: &LaunchRequest, part: u32, attempt: u32) -> String {
    hex(&Sha256::digest(format!("{}\n{part}\n{attempt}", request.client_token)))[..32].to_owned()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What an instance of one of these offers is tagged with.
pub fn of_launch(
    request: &LaunchRequest,
    offers: &[Offer],
    more: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut tags = more.clone();
    tags.extend(request.tags.clone());
    tags.insert(TOKEN.to_owned(), request.client_token.to_string());
    tags.insert(REQUEST.to_owned(), fingerprint(request));
    if let Some(first) = offers.first() {
        tags.insert(PURCHASE.to_owned(), first.purchase.as_str().to_owned());
    }
    let mut lines = vec![String::new()];
    for Offer { instance_type, price, .. } in offers {
        let word = format!("{instance_type}={}", price.0);
        match lines.last_mut() {
            Some(line) if line.is_empty() => *line = word,
            Some(line) if line.len() + 1 + word.len() <= LONGEST_VALUE => *line = format!("{line} {word}"),
            _ => lines.push(word),
        }
    }
    // What there is no room for is priced by the catalog.
    for (n, line) in lines.into_iter().take(MOST_PRICE_TAGS).enumerate().filter(|(_, line)| !line.is_empty()) {
        tags.insert(price_key(n), line);
    }
    tags
}

fn price_key(n: usize) -> String {
    if n == 0 { PRICES.to_owned() } else { format!("{PRICES}-{}", n + 1) }
}

/// What the tags say of an instance of this type.
pub fn price(tags: &BTreeMap<String, String>, instance_type: &str) -> Option<HourlyPrice> {
    let lines = (0..MOST_PRICE_TAGS).map_while(|n| tags.get(&price_key(n)));
    let of = |word: &str| {
        let (name, price) = word.split_once('=')?;
        (name == instance_type).then(|| price.parse().ok().map(HourlyPrice))?
    };
    lines.flat_map(|line| line.split(' ')).find_map(of)
}

pub fn purchase(tags: &BTreeMap<String, String>) -> Option<Purchase> {
    let all = [Purchase::OnDemand, Purchase::Spot, Purchase::Burstable, Purchase::CapacityReservation];
    let said = tags.get(PURCHASE)?;
    all.into_iter().find(|purchase| purchase.as_str() == said)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{Allocation, ClientToken, CreditMode};
    use proptest::prelude::*;

    pub fn request(offers: Vec<Offer>, count: u32) -> LaunchRequest {
        LaunchRequest {
            client_token: ClientToken::new("token"),
            zone: "us-east-1a".to_owned(),
            offers,
            allocation: Allocation::LowestPrice,
            credits: CreditMode::Unlimited,
            count,
            tags: [("pilotlight.dev/cluster".to_owned(), "dev".to_owned())].into(),
        }
    }

    pub fn offer(instance_type: &str, purchase: Purchase, price: u64) -> Offer {
        Offer { instance_type: instance_type.to_owned(), purchase, price: HourlyPrice(price) }
    }

    #[test]
    fn ours_win_over_the_users_and_the_users_are_kept() {
        let more =
            [("team".to_owned(), "a".to_owned()), ("pilotlight.dev/cluster".to_owned(), "other".to_owned())].into();
        let request = request(vec![offer("t3.micro", Purchase::Burstable, 10_400)], 1);
        let tags = of_launch(&request, &request.offers, &more);
        assert_eq!((tags["team"].as_str(), tags["pilotlight.dev/cluster"].as_str()), ("a", "dev"));
        assert_eq!(purchase(&tags), Some(Purchase::Burstable));
        assert_eq!(tags["pilotlight.dev/prices"], "t3.micro=10400");
    }

    #[test]
    fn a_token_names_one_attempt_of_one_part_and_fits_ec2() {
        let one = request(Vec::new(), 1);
        let tokens = [call_token(&one, 0, 0), call_token(&one, 0, 1), call_token(&one, 1, 0)];
        assert!(tokens.iter().all(|token| token.len() <= 64));
        assert!(tokens[0] != tokens[1] && tokens[1] != tokens[2] && tokens[0] != tokens[2]);
        assert_eq!(call_token(&one, 0, 0), tokens[0]);
        assert_ne!(fingerprint(&one), fingerprint(&request(Vec::new(), 2)));
    }

    proptest! {
        #[test]
        fn every_price_is_read_back_and_no_tag_is_longer_than_ec2_takes(prices in prop::collection::vec(any::<u64>(), 0..60)) {
            let offers: Vec<Offer> =
                prices.iter().enumerate().map(|(n, price)| offer(&format!("c{n}i.large"), Purchase::Spot, *price)).collect();
            let request = request(offers.clone(), 1);
            let tags = of_launch(&request, &offers, &BTreeMap::new());
            prop_assert!(tags.len() + MOST_OF_THE_USER <= MOST_TAGS);
            prop_assert!(tags.iter().all(|(key, value)| key.len() <= LONGEST_KEY && value.len() <= LONGEST_VALUE));
            for Offer { instance_type, price: paid, .. } in &offers {
                prop_assert_eq!(price(&tags, instance_type), Some(*paid));
            }
            prop_assert_eq!(price(&tags, "c6i.xlarge"), None);
        }
    }
}
