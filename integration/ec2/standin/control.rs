//! What tests ask and say beside the API, below `/standin`.
//!
//! | request | what |
//! |---|---|
//! | `GET /standin/facts` | account, region, subnets by zone, security group, image, the queue's path |
//! | `GET`, `PUT /standin/script` | delays, capacity, errors ([`super::script::Script`]) |
//! | `GET /standin/calls`, `DELETE` | every action called: calls, throttles, refusals by code; what moto took of it |
//! | `GET /standin/instances` | what is, with state and addresses |
//! | `PUT /standin/instances/ID/metadata` | notices of its metadata service ([`super::imds::Told`]) |
//! | `POST /standin/instances/ID/interrupt?seconds=120` | a spot interruption: the notice, then the end |
//! | `POST /standin/by-another` | a call of somebody else of the account, which is neither counted nor judged |
//! | `POST /standin/queue` | an event, as EventBridge puts it into the queue |
//! | `POST /standin/instances/ID/credentials` | identity-role credentials, as the metadata service gives them |
//! | `GET /standin/instances/ID/identity` | its identity document and the `rsa2048` signature |
//! | `GET /standin/identity-certificate` | whose key signs identity documents |

use super::{
    identity::Signer,
    imds::Told,
    instances::Stopping,
    launch::run_instances,
    moto::Spent,
    params::Params,
    script::Script,
    server::{end, pass_on},
    world::{World, now},
};
use axum::{
    Router,
    extract::{Path, Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// What a client must be configured with.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    pub account: String,
    pub region: String,
    /// By zone.
    pub subnets: BTreeMap<String, String>,
    pub security_group: String,
    pub image: String,
    /// The path of its queue's URL.
    pub queue: String,
}

pub fn router(world: Arc<World>, facts: Facts, signer: Arc<Signer>) -> Router {
    let document = {
        let (world, signer) = (Arc::clone(&world), Arc::clone(&signer));
        move |id: Path<String>| async move { identity(&world, &signer, &id) }
    };
    let certificate =
        move || async move { signer.certificate().map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error)) };
    Router::new()
        .route("/standin/facts", get(|| async move { Json(facts) }))
        .route("/standin/script", get(script).put(set_script))
        .route("/standin/calls", get(calls).delete(forget_calls))
        .route("/standin/instances", get(instances))
        .route("/standin/instances/{id}/metadata", put(metadata))
        .route("/standin/instances/{id}/interrupt", post(interrupt))
        .route("/standin/by-another", post(by_another))
        .route("/standin/queue", post(event))
        .route("/standin/instances/{id}/credentials", post(credentials))
        .route("/standin/instances/{id}/identity", get(document))
        .route("/standin/identity-certificate", get(certificate))
        .with_state(world)
}

/// As JSON.
struct Json<T>(T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_string(&self.0) {
            Ok(text) => ([(CONTENT_TYPE, "application/json")], text).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }
}

type Refused = (StatusCode, String);

fn no_such(id: &str) -> Refused {
    (StatusCode::NOT_FOUND, format!("there is no instance {id}"))
}

async fn script(State(world): State<Arc<World>>) -> Json<Script> {
    Json(world.state().script.clone())
}

/// Buckets begin full with each script.
async fn set_script(State(world): State<Arc<World>>, body: String) -> Result<(), Refused> {
    let script = serde_json::from_str(&body).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    let mut state = world.state();
    state.script = script;
    state.buckets = super::limits::Buckets::default();
    Ok(())
}

#[derive(Serialize)]
struct Called {
    #[serde(flatten)]
    calls: super::calls::Calls,
    moto: BTreeMap<String, Spent>,
}

async fn calls(State(world): State<Arc<World>>) -> Json<Called> {
    let calls = world.state().calls.clone();
    Json(Called { calls, moto: world.moto.spent().clone() })
}

async fn forget_calls(State(world): State<Arc<World>>) {
    world.state().calls = super::calls::Calls::default();
    world.moto.spent().clear();
}

async fn instances(State(world): State<Arc<World>>) -> Json<Vec<Value>> {
    let mut state = world.state();
    let state = &mut *state;
    state.tick(now());
    let show = |i: &super::instances::Instance| {
        json!({
            "id": i.id, "state": i.state(&state.script, now()).name(), "pool": i.pool.to_string(), "subnet": i.subnet,
            "address": i.address, "secondary": i.secondary, "machine": format!("{:?}", i.machine),
            "ended": i.stopping.as_ref().map(|stopping| stopping.code),
        })
    };
    Json(state.instances.0.values().map(show).collect())
}

async fn metadata(State(world): State<Arc<World>>, Path(id): Path<String>, body: String) -> Result<(), Refused> {
    let told: Told = serde_json::from_str(&body).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    let mut state = world.state();
    if !state.instances.0.contains_key(&id) {
        return Err(no_such(&id));
    }
    state.metadata.told.insert(id, told);
    Ok(())
}

#[derive(Deserialize)]
struct Interrupt {
    /// Two minutes on EC2 (AWS, "Spot Instance interruption notices").
    #[serde(default = "two_minutes")]
    seconds: u32,
}

fn two_minutes() -> u32 {
    120
}

async fn interrupt(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    Query(Interrupt { seconds }): Query<Interrupt>,
) -> Result<(), Refused> {
    let at = now() + SignedDuration::from_secs(i64::from(seconds));
    {
        let mut state = world.state();
        if !state.instances.0.contains_key(&id) {
            return Err(no_such(&id));
        }
        // At once is without a word before it.
        if seconds > 0 {
            let time = at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let told = state.metadata.told.entry(id.clone()).or_default();
            told.spot_action = Some(json!({"action": "terminate", "time": time}));
        }
    }
    let world = Arc::downgrade(&world);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(u64::from(seconds))).await;
        let Some(world) = world.upgrade() else { return };
        let stopping = Stopping { at: now(), code: "Server.SpotInstanceTermination" };
        if let Err(refusal) = end(&world, &[id], stopping).await {
            tracing::warn!(error = refusal.message, "the interrupted instance was not ended");
        }
    });
    Ok(())
}

/// The body is as EC2's query protocol has it.
async fn by_another(State(world): State<Arc<World>>, body: String) -> Result<String, Refused> {
    let params = Params::parse(&body);
    let done = match params.action() {
        // They are described as everybody's are.
        "RunInstances" => run_instances(&world, &params).await,
        _ => pass_on(&world, &params).await,
    };
    done.map_err(|refusal| (StatusCode::BAD_REQUEST, refusal.message))
}

async fn event(State(world): State<Arc<World>>, body: String) -> Result<(), Refused> {
    super::queue::send(&world, &body).await.map_err(|refusal| (StatusCode::INTERNAL_SERVER_ERROR, refusal.message))
}

fn identity(world: &World, signer: &Signer, id: &str) -> Result<Json<Value>, Refused> {
    let instance = world.state().instances.0.get(id).cloned().ok_or_else(|| no_such(id))?;
    let document = super::identity::document(&instance, &world.region, &world.account);
    let signed = signer.pkcs7(&document).map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error))?;
    Ok(Json(json!({"document": document, "rsa2048": signed})))
}

async fn credentials(State(world): State<Arc<World>>, Path(id): Path<String>) -> Result<Json<Value>, Refused> {
    let mut state = world.state();
    if !state.instances.0.contains_key(&id) {
        return Err(no_such(&id));
    }
    let made = state.metadata.credentials_of(&id, now());
    Ok(Json(json!({"accessKeyId": made.access_key, "secretAccessKey": made.secret, "token": made.token})))
}
