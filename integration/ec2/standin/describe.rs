//! DescribeInstances: moto's list, with what the stand-in knows better laid over it, then filtered and
//! paged here. Pure.
//!
//! moto filters by its own states (an instance is running at once) and fails on several filters, so it
//! is asked for everything.

use super::{
    instances::{Instance, Instances, State},
    params::Params,
    refusal::Refusal,
    script::Script,
    xml::{items, leaf, node, replace, text},
};
use jiff::Timestamp;
use std::{collections::BTreeSet, sync::Arc};
use xmltree::{Element, XMLNode};

/// One instance's element, with its reservation's id.
pub struct Described {
    pub reservation: String,
    pub element: Element,
}

/// One instance as moto has it.
#[derive(Clone)]
pub struct Listed {
    pub id: String,
    pub reservation: String,
    pub element: Arc<Element>,
}

/// Those in an answer of moto's.
pub fn listed(root: &Element) -> Vec<Listed> {
    let mut found = Vec::new();
    for reservation in items(root, "reservationSet") {
        let of = text(reservation, "reservationId").unwrap_or_default();
        for item in items(reservation, "instancesSet") {
            let id = text(item, "instanceId").unwrap_or_default();
            found.push(Listed { id, reservation: of.clone(), element: Arc::new(item.clone()) });
        }
    }
    found
}

/// Those that may be seen, as they are now; somebody else's as moto has them.
pub fn overlay(
    listed: &[Listed],
    known: &Instances,
    others: &BTreeSet<String>,
    script: &Script,
    now: Timestamp,
) -> Vec<Described> {
    let seen = |listed: &Listed| {
        let element = match known.visible(&listed.id, script, now) {
            Some(instance) => laid_over(&listed.element, instance, script, now),
            None if others.contains(&listed.id) => Element::clone(&listed.element),
            None => return None,
        };
        Some(Described { reservation: listed.reservation.clone(), element })
    };
    listed.iter().filter_map(seen).collect()
}

/// The element as EC2 would show it.
pub fn laid_over(item: &Element, instance: &Instance, script: &Script, now: Timestamp) -> Element {
    let mut element = item.clone();
    let state = instance.state(script, now);
    replace(
        &mut element,
        node("instanceState", vec![leaf("code", state.code().to_string()), leaf("name", state.name())]),
    );
    if let Some(stopping) = &instance.stopping {
        let reason = vec![leaf("code", stopping.code), leaf("message", stopping.message())];
        replace(&mut element, node("stateReason", reason));
    }
    replace(&mut element, leaf("clientToken", &instance.client_token));
    if state == State::Terminated {
        // It has no network any more.
        for name in ["networkInterfaceSet", "privateIpAddress", "subnetId", "vpcId"] {
            element.children.retain(|child| child.as_element().is_none_or(|child| child.name != name));
        }
    } else if let Some(interface) =
        element.get_mut_child("networkInterfaceSet").and_then(|set| set.get_mut_child("item"))
    {
        let address = |ip: &std::net::Ipv4Addr, primary: bool| {
            node("item", vec![leaf("primary", primary.to_string()), leaf("privateIpAddress", ip.to_string())])
        };
        let mut all = vec![address(&instance.address, true)];
        all.extend(instance.secondary.iter().map(|ip| address(ip, false)));
        replace(interface, node("privateIpAddressesSet", all));
        replace(interface, leaf("macAddress", &instance.mac));
    }
    element
}

/// All filters must be met, each by one of its values; `*` and `?` stand for anything.
pub fn filtered(all: Vec<Described>, params: &Params) -> Result<Vec<Described>, Refusal> {
    let mut left = all;
    for filter in params.groups("Filter") {
        let name = filter.get("Name").unwrap_or_default().to_owned();
        let wanted = filter.list("Value");
        let mut kept = Vec::new();
        for described in left {
            let values = values_of(&described, &name)
                .ok_or_else(|| Refusal::new("InvalidParameterValue", format!("The filter '{name}' is invalid")))?;
            if values.iter().any(|value| wanted.iter().any(|pattern| matches(pattern, value))) {
                kept.push(described);
            }
        }
        left = kept;
    }
    Ok(left)
}

fn values_of(described: &Described, filter: &str) -> Option<Vec<String>> {
    let element = &described.element;
    let at = |path: &str| Some(text(element, path).into_iter().collect());
    if let Some(key) = filter.strip_prefix("tag:") {
        return Some(tags(element).into_iter().filter(|(name, _)| name == key).map(|(_, value)| value).collect());
    }
    match filter {
        "tag-key" => Some(tags(element).into_iter().map(|(name, _)| name).collect()),
        "instance-id" => at("instanceId"),
        "instance-state-name" => at("instanceState/name"),
        "instance-state-code" => at("instanceState/code"),
        "instance-type" => at("instanceType"),
        "instance-lifecycle" => at("instanceLifecycle"),
        "client-token" => at("clientToken"),
        "availability-zone" => at("placement/availabilityZone"),
        "subnet-id" => at("subnetId"),
        "vpc-id" => at("vpcId"),
        "image-id" => at("imageId"),
        "launch-time" => at("launchTime"),
        "private-ip-address" => at("privateIpAddress"),
        "reservation-id" => Some(vec![described.reservation.clone()]),
        _ => None,
    }
}

fn tags(element: &Element) -> Vec<(String, String)> {
    let of = |item: &Element| Some((text(item, "key")?, text(item, "value").unwrap_or_default()));
    items(element, "tagSet").filter_map(of).collect()
}

/// `*` and `?` stand for anything.
pub fn matches(pattern: &str, value: &str) -> bool {
    match pattern.chars().next() {
        None => value.is_empty(),
        Some('*') => {
            (0..=value.len()).filter(|&n| value.is_char_boundary(n)).any(|n| matches(&pattern[1..], &value[n..]))
        }
        Some(first) => value.chars().next().is_some_and(|c| {
            (first == '?' || first == c) && matches(&pattern[first.len_utf8()..], &value[c.len_utf8()..])
        }),
    }
}

/// One page, and the token of the next: the id that it begins after.
pub fn page(all: Vec<Described>, params: &Params) -> Result<(Vec<Described>, Option<String>), Refusal> {
    let given = params.get("MaxResults").is_some();
    if given && params.has("InstanceId") {
        return Err(Refusal::new(
            "InvalidParameterCombination",
            "The parameter instancesSet cannot be used with the parameter maxResults",
        ));
    }
    let size = match params.number::<usize>("MaxResults") {
        Some(size @ 5..=1000) => size,
        None if !given => usize::MAX,
        _ => {
            return Err(Refusal::new(
                "InvalidParameterValue",
                "Value for parameter maxResults must be between 5 and 1000.",
            ));
        }
    };
    let id = |described: &Described| text(&described.element, "instanceId").unwrap_or_default();
    let mut all = all;
    all.sort_by_key(&id);
    if let Some(token) = params.get("NextToken") {
        all.retain(|described| id(described).as_str() > token);
    }
    let more = all.len() > size;
    all.truncate(size);
    let next = all.last().filter(|_| more).map(id);
    Ok((all, next))
}

/// The answer's content.
pub fn answer(page: Vec<Described>, next: Option<String>) -> Vec<XMLNode> {
    let mut reservations: Vec<(String, Vec<XMLNode>)> = Vec::new();
    for described in page {
        let element = XMLNode::Element(described.element);
        match reservations.iter_mut().find(|(id, _)| *id == described.reservation) {
            Some((_, instances)) => instances.push(element),
            None => reservations.push((described.reservation, vec![element])),
        }
    }
    let items = reservations
        .into_iter()
        .map(|(id, instances)| node("item", vec![leaf("reservationId", id), node("instancesSet", instances)]))
        .collect();
    let mut content = vec![node("reservationSet", items)];
    content.extend(next.map(|token| leaf("nextToken", token)));
    content
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        instances::{
            Stopping,
            tests::{at, instance},
        },
        xml,
    };

    fn world(count: usize) -> (Vec<Listed>, Instances) {
        let ids: Vec<String> = (0..count).map(|n| format!("i-{n:02}")).collect();
        let items: String = ids
            .iter()
            .map(|id| {
                format!(
                    "<item><instanceId>{id}</instanceId><instanceState><code>16</code><name>running</name></instanceState>\
                     <networkInterfaceSet><item/></networkInterfaceSet><privateIpAddress>10.72.0.4</privateIpAddress>\
                     <tagSet><item><key>cluster</key><value>dev</value></item></tagSet></item>"
                )
            })
            .collect();
        let text = format!(
            "<R><reservationSet><item><reservationId>r-1</reservationId><instancesSet>{items}</instancesSet></item></reservationSet></R>"
        );
        (
            listed(&xml::parse(&text).unwrap()),
            Instances(ids.into_iter().map(|id| (id.clone(), instance(&id, 0))).collect()),
        )
    }

    fn ids(all: &[Described]) -> Vec<String> {
        all.iter().map(|d| text(&d.element, "instanceId").unwrap()).collect()
    }

    #[test]
    fn moto_says_running_but_the_answer_says_what_the_clock_and_the_machine_say() {
        let (moto, mut known) = world(3);
        let script = Script { pending_millis: 1000, ..Script::default() };
        known.0.get_mut("i-01").unwrap().stopping = Some(Stopping::by_user(at(10)));
        known.0.remove("i-02");
        let all = overlay(&moto, &known, &BTreeSet::new(), &script, at(20));
        assert_eq!(text(&all[0].element, "instanceState/name").unwrap(), "pending");
        let set = all[0].element.get_child("networkInterfaceSet").unwrap().get_child("item").unwrap();
        assert_eq!(items(set, "privateIpAddressesSet").count(), 2);
        assert_eq!(text(&all[1].element, "instanceState/name").unwrap(), "terminated");
        assert_eq!(text(&all[1].element, "stateReason/code").unwrap(), "Client.UserInitiatedShutdown");
        assert_eq!(text(&all[1].element, "privateIpAddress"), None);
        assert_eq!(all.len(), 2, "what was not launched here is not shown");
        let all = overlay(&moto, &known, &BTreeSet::from(["i-02".to_owned()]), &script, at(20));
        assert_eq!(text(&all[2].element, "instanceState/name").unwrap(), "running", "somebody else's");
    }

    #[test]
    fn filters_are_all_met_and_an_unknown_one_is_refused() {
        let (moto, known) = world(3);
        let all = || overlay(&moto, &known, &BTreeSet::new(), &Script::default(), at(0));
        let with = |name: &str, value: &str| {
            filtered(all(), &Params::of(&[("Filter.1.Name", name), ("Filter.1.Value.1", value)]))
        };
        assert_eq!(with("tag:cluster", "d*").unwrap().len(), 3);
        assert_eq!(with("tag:cluster", "other").unwrap().len(), 0);
        assert_eq!(with("client-token", "token").unwrap().len(), 3);
        assert_eq!(ids(&with("instance-id", "i-?1").unwrap()), ["i-01"]);
        assert_eq!(with("instance-lifecycle", "spot").unwrap().len(), 0);
        assert_eq!(with("colour", "red").err().unwrap().code, "InvalidParameterValue");
    }

    #[test]
    fn pages_hold_everything_once_and_their_size_excludes_ids() {
        let (moto, known) = world(12);
        let (mut seen, mut token) = (Vec::new(), None::<String>);
        loop {
            let mut params = Params::of(&[("MaxResults", "5")]);
            token.iter().for_each(|token| params.set("NextToken", token));
            let (got, next) =
                page(overlay(&moto, &known, &BTreeSet::new(), &Script::default(), at(0)), &params).unwrap();
            assert!(got.len() <= 5);
            seen.extend(ids(&got));
            token = next;
            if token.is_none() {
                break;
            }
        }
        assert_eq!(seen, known.0.keys().cloned().collect::<Vec<_>>());
        let refused = |pairs: &[(&str, &str)]| page(Vec::new(), &Params::of(pairs)).err().unwrap().code;
        assert_eq!(refused(&[("MaxResults", "5"), ("InstanceId.1", "i-1")]), "InvalidParameterCombination");
        assert_eq!(refused(&[("MaxResults", "4")]), "InvalidParameterValue");
    }
}
