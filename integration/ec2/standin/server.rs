//! The API as clients see it: `POST /` with an action, EC2's, STS's, the price list's and SQS's on one address.
//!
//! ```text
//!  counted -> allowed (script)? -> scripted error? -> allowed (policy)? -> dry run? -> token bucket -> done (by the stand-in,
//!  by moto) -> answer lost?
//! ```

use super::{
    authorize,
    create_fleet::{create_fleet, note_template},
    describe,
    instances::{Machine, State, Stopping},
    launch::run_instances,
    limits::{Bucket, request_bucket},
    params::Params,
    price_list, queue,
    refusal::{Refusal, no_such_instances, throttled},
    roles,
    script::{Lifecycle, Pool},
    sts,
    world::{World, now, request_id},
    xml::{self, leaf, node},
};
use axum::{
    body::Bytes,
    extract::State as From,
    http::{HeaderMap, Method, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use std::{sync::Arc, time::Duration};

pub async fn api(From(world): From<Arc<World>>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    // What EC2 has heard it does, also when its caller has died.
    let heard = tokio::spawn(heard(world, method, uri, headers, body));
    heard.await.unwrap_or_else(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response())
}

async fn heard(world: Arc<World>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    if price_list::is_asked(&headers) {
        let done = roles::known(&world, &headers)
            .and_then(|()| may(&world, "GetProducts"))
            .and_then(|()| price_list::get_products(&world, &headers, &body));
        return json_answer(&world, "pricing", "GetProducts", "application/x-amz-json-1.1", done);
    }
    if let Some(operation) = queue::asked(&headers) {
        let action = queue::action(operation);
        let done = match roles::known(&world, &headers).and_then(|()| may(&world, action)) {
            Ok(()) => queue::pass_on(&world, operation, &headers, &body).await,
            Err(refusal) => Err(refusal),
        };
        return json_answer(&world, "sqs", action, "application/x-amz-json-1.0", done);
    }
    let mut params = Params::parse(uri.query().unwrap_or_default());
    params.merge(Params::parse(&String::from_utf8_lossy(&body)));
    let action = params.action().to_owned();
    let of_sts = matches!(action.as_str(), "GetCallerIdentity" | "AssumeRoleWithWebIdentity");
    let service = if of_sts { "sts" } else { "ec2" };
    world.state().calls.called(service, &action).calls += 1;
    let done = match action.as_str() {
        "GetCallerIdentity" => sts::get_caller_identity(&world, method.as_str(), &uri, &headers, &body),
        "AssumeRoleWithWebIdentity" => roles::assume_role_with_web_identity(&world, &params),
        _ => match roles::known(&world, &headers) {
            Ok(()) => guarded(&world, &params).await,
            Err(refusal) => Err(refusal),
        },
    };
    let (status, text) = match done {
        Ok(text) => (200, text),
        Err(refusal) => {
            world.state().calls.refused(service, &action, &refusal);
            let text = if service == "sts" { sts::error_xml(&refusal) } else { refusal.xml(&request_id()) };
            (refusal.status, text)
        }
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(CONTENT_TYPE, "text/xml;charset=UTF-8")], text).into_response()
}

/// EKS Pod Identity's agent.
pub async fn pod_identity(From(world): From<Arc<World>>, headers: HeaderMap) -> Response {
    let (status, text) = roles::agent(&world, &headers);
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(CONTENT_TYPE, "application/json")], text).into_response()
}

fn json_answer(
    world: &World,
    service: &str,
    action: &str,
    content_type: &'static str,
    done: Result<String, Refusal>,
) -> Response {
    world.state().calls.called(service, action).calls += 1;
    let (status, text) = match done {
        Ok(text) => (StatusCode::OK, text),
        Err(refusal) => {
            world.state().calls.refused(service, action, &refusal);
            (StatusCode::BAD_REQUEST, refusal.json())
        }
    };
    (status, [(CONTENT_TYPE, content_type)], text).into_response()
}

/// What the script says of a call before it is looked at.
fn may(world: &World, action: &str) -> Result<(), Refusal> {
    let mut state = world.state();
    if state.script.allowed_actions.as_ref().is_some_and(|allowed| !allowed.iter().any(|a| a == action)) {
        let message = "You are not authorized to perform this operation.";
        return Err(Refusal::new("UnauthorizedOperation", message));
    }
    state.script.fault(action, false).map_or(Ok(()), Err)
}

async fn guarded(world: &Arc<World>, params: &Params) -> Result<String, Refusal> {
    let action = params.action();
    may(world, action)?;
    authorize::ec2(world, params).await?;
    {
        let mut state = world.state();
        if params.get("DryRun") == Some("true") {
            let message = "Request would have succeeded, but DryRun flag is set.";
            return Err(Refusal::new("DryRunOperation", message));
        }
        if state.throttles(request_bucket(params), 1, now()) {
            return Err(throttled());
        }
    }
    let text = dispatch(world, params).await?;
    let lost = world.state().script.fault(action, true);
    lost.map_or(Ok(text), Err)
}

async fn dispatch(world: &Arc<World>, params: &Params) -> Result<String, Refusal> {
    match params.action() {
        "RunInstances" | "CreateFleet" => once(world, params).await,
        "DescribeInstances" => describe_instances(world, params).await,
        "DescribeInstanceCreditSpecifications" => credits(world, params),
        "TerminateInstances" => terminate(world, params).await,
        "StopInstances" => stop(world, params),
        "DescribeSpotPriceHistory" => Ok(spot_prices(world, params)),
        "DescribeInstanceTypes" => paged(world, params, "instanceTypeSet", 100).await,
        "DescribeInstanceTypeOfferings" => paged(world, params, "instanceTypeOfferingSet", 1000).await,
        "DescribeInstanceAttribute" | "DescribeInstanceStatus" | "ModifyInstanceAttribute" | "CreateTags" => {
            let mut named = params.list("InstanceId");
            named.extend(params.get("InstanceId").map(str::to_owned));
            named.extend(params.list("ResourceId").into_iter().filter(|id| id.starts_with("i-")));
            known(world, &named)?;
            pass_on(world, params).await
        }
        _ => pass_on(world, params).await,
    }
}

/// The first of the requests with a token is done, the others get its answer.
async fn once(world: &Arc<World>, params: &Params) -> Result<String, Refusal> {
    let delay = Duration::from_millis(world.state().script.launch_millis);
    let gate = params.get("ClientToken").map(|token| format!("token {} {token}", params.action()));
    let _gate = match &gate {
        Some(name) => Some(world.launching.pass(name).await),
        None => None,
    };
    tokio::time::sleep(delay).await;
    let seen = world.state().tokens.replay(params)?;
    if let Some(answer) = seen {
        world.state().calls.called("ec2", params.action()).replayed += 1;
        return Ok(answer);
    }
    let answer = match params.action() {
        "RunInstances" => run_instances(world, params).await?,
        _ => create_fleet(world, params).await?,
    };
    world.state().tokens.remember(params, &answer);
    Ok(answer)
}

async fn describe_instances(world: &World, params: &Params) -> Result<String, Refusal> {
    let ids = params.list("InstanceId");
    known(world, &ids)?;
    let all = || {
        let state = world.state();
        state.instances.0.keys().chain(&state.others).cloned().collect()
    };
    let ids = if ids.is_empty() { all() } else { ids };
    let listed = world.moto.instances(&ids).await?;
    let all = {
        let mut state = world.state();
        let state = &mut *state;
        state.tick(now());
        describe::overlay(&listed, &state.instances, &state.others, &state.script, now())
    };
    let (page, next) = describe::page(describe::filtered(all, params)?, params)?;
    Ok(xml::response("DescribeInstancesResponse", describe::answer(page, next), &request_id()))
}

/// One that is not burstable fails them all.
fn credits(world: &World, params: &Params) -> Result<String, Refusal> {
    let ids = params.list("InstanceId");
    known(world, &ids)?;
    let state = world.state();
    let of = |id: String| {
        let message = format!("The instance {id} is no burstable performance instance.");
        let credits = state.instances.0.get(&id).and_then(|instance| instance.credits.clone());
        let credits = credits.ok_or_else(|| Refusal::new("InstanceCreditSpecification.NotSupported", message))?;
        Ok(node("item", vec![leaf("instanceId", id), leaf("cpuCredits", credits)]))
    };
    let items = ids.into_iter().map(of).collect::<Result<_, Refusal>>()?;
    let content = vec![node("instanceCreditSpecificationSet", items)];
    Ok(xml::response("DescribeInstanceCreditSpecificationsResponse", content, &request_id()))
}

/// One that is not known fails them all.
fn known(world: &World, ids: &[String]) -> Result<(), Refusal> {
    let state = world.state();
    let missing: Vec<String> =
        ids.iter().filter(|id| state.instances.visible(id, &state.script, now()).is_none()).cloned().collect();
    if missing.is_empty() { Ok(()) } else { Err(no_such_instances(&missing)) }
}

/// AWS, "TerminateInstances": at most 1000.
const MOST_AT_ONCE: usize = 1000;

async fn terminate(world: &World, params: &Params) -> Result<String, Refusal> {
    let ids = params.list("InstanceId");
    if ids.is_empty() {
        return Err(Refusal::new("MissingParameter", "The request must contain the parameter InstanceId."));
    }
    if ids.len() > MOST_AT_ONCE {
        return Err(Refusal::new("InvalidParameterValue", "At most 1000 instances can be terminated by one request."));
    }
    known(world, &ids)?;
    {
        let mut state = world.state();
        let count = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        if state.throttles(Bucket::TerminatedMachines, count, now()) {
            return Err(throttled());
        }
    }
    let changes = end(world, &ids, Stopping::by_user(now())).await?;
    let of =
        |name: &str, state: State| node(name, vec![leaf("code", state.code().to_string()), leaf("name", state.name())]);
    let items = changes
        .into_iter()
        .map(|(id, before, after)| {
            node("item", vec![leaf("instanceId", id), of("currentState", after), of("previousState", before)])
        })
        .collect();
    Ok(xml::response("TerminateInstancesResponse", vec![node("instancesSet", items)], &request_id()))
}

/// At once, and for records alone: a machine's disk is not kept here.
fn stop(world: &World, params: &Params) -> Result<String, Refusal> {
    if world.machines.is_some() {
        return Err(Refusal::new("UnsupportedOperation", "Machines can't be stopped here."));
    }
    let ids = params.list("InstanceId");
    known(world, &ids)?;
    let mut state = world.state();
    for id in &ids {
        if let Some(instance) = state.instances.0.get_mut(id) {
            instance.stopped = true;
        }
    }
    let items = ids.into_iter().map(|id| node("item", vec![leaf("instanceId", id)])).collect();
    Ok(xml::response("StopInstancesResponse", vec![node("instancesSet", items)], &request_id()))
}

/// Ends instances in moto, here and their machines. Returns each with its state before and after.
pub async fn end(world: &World, ids: &[String], stopping: Stopping) -> Result<Vec<(String, State, State)>, Refusal> {
    let mut ask = Params::parse("Action=TerminateInstances&Version=2016-11-15");
    let (mut changes, mut ended) = (Vec::new(), Vec::new());
    {
        let mut state = world.state();
        let state = &mut *state;
        for id in ids {
            let Some(instance) = state.instances.0.get_mut(id) else { continue };
            let before = instance.state(&state.script, now());
            if instance.stopping.is_none() {
                instance.stopping = Some(stopping.clone());
                ended.push(id.clone());
                state.calls.terminated += 1;
                ask.set(format!("InstanceId.{}", ended.len()), id);
            }
            changes.push((id.clone(), before, instance.state(&state.script, now())));
        }
    }
    if ended.is_empty() {
        return Ok(changes);
    }
    world.moto.query(&ask).await?;
    if let Some(machines) = &world.machines {
        machines.end(&ended);
    }
    Ok(changes)
}

/// What a machine became, told by who watches it.
pub async fn machine_is(world: &World, id: &str, machine: Machine) {
    {
        let mut state = world.state();
        let Some(instance) = state.instances.0.get_mut(id) else { return };
        instance.machine = machine;
        if machine != Machine::Gone || instance.stopping.is_some() {
            return;
        }
    }
    let stopping = Stopping { at: now(), code: "Client.InstanceInitiatedShutdown" };
    if let Err(refusal) = end(world, &[id.to_owned()], stopping).await {
        tracing::warn!(instance = id, error = refusal.message, "moto did not end what ended by itself");
    }
}

fn spot_prices(world: &World, params: &Params) -> String {
    let script = world.state().script.clone();
    let said = |instance_type: &str, zone: &str| {
        let pool = Pool { lifecycle: Lifecycle::Spot, instance_type: instance_type.to_owned(), zone: zone.to_owned() };
        script.price_of(&pool)
    };
    let all = world.market.history(params, &world.zones, now(), said);
    let from: usize = params.number("NextToken").unwrap_or(0);
    let most = params.number("MaxResults").unwrap_or(1000).clamp(1, 1000);
    let next = if from + most < all.len() { (from + most).to_string() } else { String::new() };
    let page = all.into_iter().skip(from).take(most).collect();
    let content = vec![node("spotPriceHistorySet", page), leaf("nextToken", next)];
    xml::response("DescribeSpotPriceHistoryResponse", content, &request_id())
}

/// moto gives all at once; EC2 gives pages of at most so many.
async fn paged(world: &World, params: &Params, list: &str, most: usize) -> Result<String, Refusal> {
    let size = params.number("MaxResults").unwrap_or(most);
    if !(5..=most).contains(&size) {
        let message = format!("Value for parameter maxResults must be between 5 and {most}.");
        return Err(Refusal::new("InvalidParameterValue", message));
    }
    let from: usize = params.number("NextToken").unwrap_or(0);
    let mut ask = params.clone();
    ask.remove("MaxResults");
    ask.remove("NextToken");
    let mut root = world.moto.query(&ask).await?;
    let mut more = false;
    if let Some(found) = root.get_mut_child(list) {
        found.children.retain(|child| child.as_element().is_some());
        more = found.children.len() > from + size;
        found.children = found.children.drain(..).skip(from).take(size).collect();
    }
    if more {
        xml::replace(&mut root, leaf("nextToken", (from + size).to_string()));
    }
    Ok(xml::print(&root))
}

pub(super) async fn pass_on(world: &World, params: &Params) -> Result<String, Refusal> {
    let (root, text) = world.moto.query_text(params).await?;
    note_template(world, params, &root);
    Ok(text)
}

/// A call of somebody else of the account. What it launches can be seen; it is a record like the others, or, where those
/// have machines, one of moto's alone.
pub(super) async fn by_another(world: &Arc<World>, params: &Params) -> Result<String, Refusal> {
    if params.action() == "RunInstances" && world.machines.is_none() {
        return run_instances(world, params).await;
    }
    let (root, text) = world.moto.query_text(params).await?;
    note_template(world, params, &root);
    // Of the state of what is not ours it alone knows.
    world.moto.look_again();
    if params.action() == "RunInstances" {
        let ids = xml::items(&root, "instancesSet").filter_map(|item| xml::text(item, "instanceId"));
        world.state().others.extend(ids);
    }
    Ok(text)
}
