//! Every call of the provider's, judged by the policy that it is shipped with ([`super::iam`]).
//!
//! Without a policy nothing is judged. What somebody else of the account does (`/standin/by-another`) never is, nor STS's
//! GetCallerIdentity, which needs no right (AWS, "GetCallerIdentity").

use super::{
    iam::{self, Account, Call, Denied, Tags, Why},
    launch::Launch,
    moto::Moto,
    params::Params,
    refusal::Refusal,
    world::World,
    xml::{items, text},
};
use std::collections::BTreeMap;

/// EC2 adds some such, which only STS can read, of about this length.
const ENCODED: usize = 900;

/// A request of EC2's.
pub async fn ec2(world: &World, params: &Params) -> Result<(), Refusal> {
    let Some(policy) = &world.iam else { return Ok(()) };
    let tags = tags(world, &iam::named(params)).await?;
    let calls = {
        let state = world.state();
        account(world, &state.templates, &tags).calls(params)
    };
    policy.allows(&calls).map_err(|denied| unauthorized(world, &denied))
}

/// A launch inside of a fleet: EC2 says what is denied of it among the errors of its answer.
pub fn launch(world: &World, template: &Params, launch: &Launch) -> Result<(), Refusal> {
    let Some(policy) = &world.iam else { return Ok(()) };
    let mut spec = launch.spec.clone();
    spec.set("SubnetId", &launch.subnet);
    let calls = {
        let state = world.state();
        account(world, &state.templates, &BTreeMap::new()).launch(template, &spec)
    };
    policy.allows(&calls).map_err(|denied| unauthorized(world, &denied))
}

/// A call of another service's, which has another code for it.
pub fn other(world: &World, call: &Call) -> Result<(), Refusal> {
    let Some(policy) = &world.iam else { return Ok(()) };
    let refused = |denied: Denied| Refusal::new("AccessDeniedException", message(world, &denied));
    policy.judge(call).map_err(refused)
}

fn account<'a>(
    world: &'a World,
    templates: &'a BTreeMap<String, super::world::Template>,
    tags: &'a BTreeMap<String, Tags>,
) -> Account<'a> {
    Account { id: &world.account, region: &world.region, templates, tags }
}

/// Nothing for what is not there.
async fn tags(world: &World, ids: &[String]) -> Result<BTreeMap<String, Tags>, Refusal> {
    let known = |id: &&String| world.state().instances.0.contains_key(*id);
    let (instances, others): (Vec<&String>, Vec<&String>) = ids.iter().partition(known);
    let instances: Vec<String> = instances.into_iter().cloned().collect();
    let mut all = BTreeMap::new();
    if !instances.is_empty() {
        for listed in world.moto.instances(&instances).await? {
            let pairs = items(&listed.element, "tagSet");
            all.insert(listed.id, pairs.filter_map(pair).collect());
        }
    }
    if !others.is_empty() {
        described(&world.moto, &others, &mut all).await?;
    }
    Ok(all)
}

async fn described(moto: &Moto, ids: &[&String], all: &mut BTreeMap<String, Tags>) -> Result<(), Refusal> {
    let mut ask = Params::parse("Action=DescribeTags&Version=2016-11-15&Filter.1.Name=resource-id");
    for (n, id) in ids.iter().enumerate() {
        ask.set(format!("Filter.1.Value.{}", n + 1), *id);
    }
    for item in items(&moto.query(&ask).await?, "tagSet") {
        let (Some(id), Some((key, value))) = (text(item, "resourceId"), pair(item)) else { continue };
        all.entry(id).or_default().insert(key, value);
    }
    Ok(())
}

fn pair(item: &xmltree::Element) -> Option<(String, String)> {
    Some((text(item, "key")?, text(item, "value").unwrap_or_default()))
}

fn unauthorized(world: &World, denied: &Denied) -> Refusal {
    let encoded = "0123456789abcdef".repeat(ENCODED / 16);
    let said = message(world, denied);
    Refusal::new(
        "UnauthorizedOperation",
        format!(
            "You are not authorized to perform this operation. {said}. Encoded authorization failure message: {encoded}"
        ),
    )
}

fn message(world: &World, denied: &Denied) -> String {
    // Why is for whoever reads the stand-in's log: AWS does not say it.
    tracing::warn!(%denied, "the policy does not allow it");
    let Denied { action, resource, why } = denied;
    let because = match why {
        Why::Explicitly(_) => "with an explicit deny in an identity-based policy".to_owned(),
        Why::Nothing(_) => format!("because no identity-based policy allows the {action} action"),
    };
    let account = &world.account;
    format!(
        "User: arn:aws:sts::{account}:assumed-role/pilotlight/standin is not authorized to perform: {action} on resource: \
         {resource} {because}"
    )
}
