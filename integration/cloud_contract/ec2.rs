//! EC2's backend against the stand-in, and what it promises beside the contract.

use super::{
    Place, ids,
    support::{Machines, StandIn, field, fields},
    until, until_looked,
};
use aws_config::SdkConfig;
use aws_sdk_ec2::config::{Credentials, SharedCredentialsProvider};
use jiff::SignedDuration;
use pilotlight::{
    claims::{FileStore, Ledger},
    cloud::ec2::{
        Ec2Cloud, Right,
        attest::{AttestConfig, Attestor, StsClient},
        config::{Ec2Config, RootVolume, TypeFacts},
        sdk_config,
    },
    decide::admission::Refusal,
    decide::purchase::policy::Architecture,
    model::{
        Allocation, CreditMode, HourlyPrice, InstanceId, InstanceState, LaunchRequest, Offer, Purchase,
        bootstrap::KeyFingerprint,
    },
    ports::{Claim, ClaimError, Cloud, CloudError, InstanceProof, Vendor, VendorError},
};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

const TYPES: [&str; 2] = ["c6i.large", "m6i.large"];

pub struct Ec2 {
    cloud: Option<Ec2Cloud>,
    config: Ec2Config,
    runtime: Runtime,
    cancel: CancellationToken,
    standin: StandIn,
}

/// Ten lists a second are an account's, and the sweeper needs some of them.
const GENTLY: Duration = Duration::from_millis(500);

impl Ec2 {
    /// What EC2 says of all there is of this. It may say first that it was asked too often.
    fn listed(&self, what: &str) -> String {
        let mut said = String::new();
        until_looked(GENTLY, "EC2 answers", || {
            let answer = self.standin.api(&format!("Action=Describe{what}"));
            said = answer.text;
            answer.status == 200
        });
        said
    }

    pub fn new(name: &str) -> Self {
        Self::on(StandIn::start(&format!("contract-{name}"), Machines::None))
    }

    fn on(standin: StandIn) -> Self {
        let facts = standin.get("/standin/facts");
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let subnets = facts["subnets"].as_object().unwrap();
        let of = |name: &str, burstable, price| {
            (name.to_owned(), TypeFacts { architecture: Architecture::Amd64, burstable, on_demand: HourlyPrice(price) })
        };
        let config = Ec2Config {
            cluster: "contract".to_owned(),
            region: text(&facts["region"]),
            endpoint_url: Some(standin.url()),
            price_list_endpoint_url: Some(standin.url()),
            interruption_queue_url: None,
            subnets: subnets.iter().map(|(zone, id)| (zone.clone(), vec![text(id)])).collect(),
            security_groups: vec![text(&facts["securityGroup"])],
            images: [(Architecture::Amd64, text(&facts["image"]))].into(),
            instance_profile: None,
            root_volume: RootVolume { device: "/dev/xvda".to_owned(), size_gib: 20 },
            tags: [("team".to_owned(), "platform".to_owned())].into(),
            provider_url: "https://10.72.0.1:10255".to_owned(),
            ca_pem: "a certificate".to_owned(),
            insecure_registries: Vec::new(),
            types: [of("c6i.large", false, 85_000), of("m6i.large", false, 96_000), of("t3.micro", true, 10_400)]
                .into(),
            per_call: 100,
            journal_dir: standin.dir().join("launches"),
            sweep_every: Duration::from_secs(1),
            template_idle: Duration::from_secs(3600),
        };
        let cancel = CancellationToken::new();
        let mut place = Self { cloud: None, config, runtime: Runtime::new().unwrap(), cancel, standin };
        place.restart();
        place
    }

    async fn shared(&self) -> SdkConfig {
        let credentials = Credentials::new("standin", "standin", None, None, "the test");
        let credentials = SharedCredentialsProvider::new(credentials);
        sdk_config(&self.config.region).credentials_provider(credentials).load().await
    }

    fn make(&self, config: Ec2Config) -> Ec2Cloud {
        self.runtime.block_on(async {
            let shared = self.shared().await;
            let sts = StsClient::at(config.endpoint_url.as_ref().unwrap()).unwrap();
            let (ledger, writer) =
                Ledger::new(FileStore::new(config.journal_dir.with_extension("claims")), self.cancel.clone());
            tokio::spawn(writer);
            let attest = AttestConfig {
                cluster: config.cluster.clone(),
                region: config.region.clone(),
                account: None,
                identity_certificates: None,
                register_within: Arc::new(|| SignedDuration::from_mins(10)),
            };
            let attestor = Attestor::new(attest, Arc::new(sts), Arc::new(ledger));
            Ec2Cloud::new(config, &shared, attestor).unwrap()
        })
    }

    fn calls(&self, action: &str) -> u64 {
        self.standin.get("/standin/calls")["actions"][format!("ec2:{action}")]["calls"].as_u64().unwrap_or(0)
    }

    /// Of all actions together.
    fn throttled(&self) -> u64 {
        let calls = self.standin.get("/standin/calls");
        calls["actions"].as_object().unwrap().values().map(|action| action["throttled"].as_u64().unwrap()).sum()
    }

    fn offers(&self, token: &str, count: u32, offers: &[(&str, Purchase)]) -> LaunchRequest {
        let offer = |(name, purchase): &(&str, Purchase)| Offer {
            instance_type: (*name).to_owned(),
            purchase: *purchase,
            price: HourlyPrice(7),
        };
        LaunchRequest { offers: offers.iter().map(offer).collect(), ..self.request(token, count) }
    }
}

impl Place for Ec2 {
    fn cloud(&self) -> &dyn Cloud {
        self.cloud.as_ref().unwrap()
    }

    fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    fn restart(&mut self) {
        self.cloud = None;
        self.cloud = Some(self.make(self.config.clone()));
    }

    fn zone(&self) -> &'static str {
        "us-east-1a"
    }

    fn types(&self) -> &'static [&'static str] {
        &TYPES
    }
}

#[test]
fn a_pinned_type_is_run_and_a_flexible_or_spot_one_is_a_fleet() {
    let place = Ec2::new("means");
    place.launch(&place.offers("pinned", 2, &[("t3.micro", Purchase::Burstable)])).unwrap();
    assert_eq!((place.calls("RunInstances"), place.calls("CreateFleet")), (1, 0));
    let flexible = [("c6i.large", Purchase::OnDemand), ("m6i.large", Purchase::OnDemand)];
    let launched = place.launch(&place.offers("flexible", 2, &flexible)).unwrap();
    assert_eq!((place.calls("RunInstances"), place.calls("CreateFleet")), (1, 1));
    assert!(launched.records.iter().all(|r| r.instance_type == "c6i.large"), "in the order of the offers");
    let spot = place.launch(&place.offers("spot", 1, &[("m6i.large", Purchase::Spot)])).unwrap();
    assert_eq!((place.calls("RunInstances"), place.calls("CreateFleet")), (1, 2));
    assert_eq!(spot.records[0].purchase, Purchase::Spot);
    let described = place.standin.api("Action=DescribeInstances");
    assert_eq!(fields(&described.text, "instanceLifecycle"), ["spot"]);
}

#[test]
fn an_instance_gets_what_the_template_says_and_everything_is_tagged_at_launch() {
    let place = Ec2::new("template");
    place.launch(&place.offers("one", 1, &[("t3.micro", Purchase::Burstable)])).unwrap();
    let described = place.standin.api("Action=DescribeInstances").text;
    let id = field(&described, "instanceId");
    assert_eq!(field(&described, "httpTokens"), "required");
    assert_eq!(field(&described, "httpPutResponseHopLimit"), "1");
    let attribute = format!("Action=DescribeInstanceAttribute&Attribute=userData&InstanceId={id}");
    assert!(place.standin.api(&attribute).text.contains("I2Nsb3VkLWNvbmZpZ"), "#cloud-config, in base64");
    // moto does not take the tags of network interfaces.
    for what in ["Instances", "Volumes"] {
        let ours = "Filter.1.Name=tag:pilotlight.dev/cluster&Filter.1.Value.1=contract";
        let text = place.standin.api(&format!("Action=Describe{what}&{ours}")).text;
        assert!(text.contains("<value>platform</value>"), "{what}: {text}");
    }
    let templates = place.standin.api("Action=DescribeLaunchTemplates").text;
    let names = fields(&templates, "launchTemplateName");
    assert!(names.len() == 1 && names[0].starts_with("pilotlight-contract-"), "{templates}");
    let again = place.make(place.config.clone());
    place.runtime.block_on(again.launch(&place.offers("two", 1, &[("t3.micro", Purchase::Burstable)]))).unwrap();
    assert_eq!(place.calls("CreateLaunchTemplate"), 1, "the next process finds it by its name");
}

#[test]
fn what_a_pool_lacks_is_had_from_the_next_and_named() {
    let place = Ec2::new("ice");
    place.standin.script(r#"{"capacity": {"spot:c6i.large:*": 1, "on-demand:t3.micro:*": 0}}"#);
    let offers = [
        ("t3.micro", Purchase::Burstable),
        ("c6i.large", Purchase::Spot),
        ("m6i.large", Purchase::CapacityReservation),
        ("m6i.large", Purchase::OnDemand),
    ];
    let launched = place.launch(&place.offers("through", 3, &offers)).unwrap();
    let mut had: Vec<_> = launched.records.iter().map(|r| (r.instance_type.as_str(), r.purchase.as_str())).collect();
    had.sort_unstable();
    assert_eq!(
        had,
        [("c6i.large", "spot"), ("m6i.large", "capacity-reservation"), ("m6i.large", "capacity-reservation")]
    );
    let short: Vec<_> = launched
        .shortages
        .iter()
        .map(|s| {
            (
                s.instance_type.as_deref().unwrap(),
                s.purchase.unwrap().as_str(),
                s.zone.as_deref().unwrap(),
                s.code.as_str(),
            )
        })
        .collect();
    let ice = "InsufficientInstanceCapacity";
    assert_eq!(short, [("t3.micro", "burstable", "us-east-1a", ice), ("c6i.large", "spot", "us-east-1a", ice)]);

    place.standin.script(r#"{"capacity": {"*:*:*": 0}}"#);
    let none = place.launch(&place.offers("none", 1, &offers)).unwrap();
    assert_eq!((none.records.len(), none.shortages.len()), (0, 4), "{none:?}");
}

#[test]
fn a_subnet_without_addresses_is_passed_over_for_the_zones_next() {
    let mut place = Ec2::new("subnets");
    let (first, second) = (place.standin.subnet("us-east-1a"), place.standin.subnet("us-east-1b"));
    place.config.subnets.insert("us-east-1a".to_owned(), vec![first, second]);
    place.restart();
    let full = r#"{"action": "RunInstances", "code": "InsufficientFreeAddressesInSubnet", "times": 1}"#;
    place.standin.script(&format!(r#"{{"faults": [{full}]}}"#));
    let launched = place.launch(&place.offers("one", 1, &[("t3.micro", Purchase::Burstable)])).unwrap();
    assert_eq!((launched.records.len(), launched.shortages.len()), (1, 0));
    place.standin.script(&format!(r#"{{"faults": [{}]}}"#, full.replace(", \"times\": 1", "")));
    let none = place.launch(&place.offers("two", 1, &[("t3.micro", Purchase::Burstable)])).unwrap();
    let short = &none.shortages[0];
    assert_eq!((&short.purchase, &short.instance_type, short.zone.as_deref()), (&None, &None, Some("us-east-1a")));
}

#[test]
fn a_lost_answer_and_a_throttled_call_are_asked_for_again_and_launch_once() {
    let place = Ec2::new("lost");
    place.standin.script(
        r#"{"faults": [{"action": "CreateFleet", "code": "InternalError", "times": 1, "after": true},
                       {"action": "RunInstances", "code": "RequestLimitExceeded", "times": 2}]}"#,
    );
    let spot = place.launch(&place.offers("spot", 3, &[("c6i.large", Purchase::Spot)])).unwrap();
    assert_eq!(spot.records.len(), 3);
    let run = place.launch(&place.offers("run", 2, &[("t3.micro", Purchase::Burstable)])).unwrap();
    assert_eq!((run.records.len(), run.shortages.len()), (2, 0), "throttling is no shortage");
    assert_eq!(place.describe().len(), 5);
    assert_eq!(place.standin.get("/standin/calls")["launched"], 5);
}

#[test]
fn a_launch_under_way_at_the_end_of_a_process_is_taken_up_by_the_next_and_made_once() {
    let mut place = Ec2::new("killed");
    // The launch takes longer than the process lives.
    place.standin.script(r#"{"launchMillis": 1500}"#);
    let wanted = place.offers("killed", 2, &[("t3.micro", Purchase::Burstable)]);
    let cloud = place.cloud.take().unwrap();
    let launch = place.runtime.spawn(async move { cloud.launch(&wanted).await });
    until("the call is on its way", || place.calls("RunInstances") == 1);
    launch.abort();
    until("it is gone", || launch.is_finished());
    place.restart();
    let found = place.describe();
    assert_eq!(found.len(), 2, "what was asked for is known before anything else is");
    assert_eq!(place.standin.get("/standin/calls")["launched"], 2);
    place.restart();
    assert_eq!(place.describe().len(), 2);
    assert_eq!(place.standin.get("/standin/calls")["launched"], 2, "it was struck off");
}

#[test]
fn instances_that_ec2_does_not_show_yet_are_known_and_can_be_ended_later() {
    let place = Ec2::new("lag");
    place.standin.script(r#"{"notFoundMillis": 9999999}"#);
    let spot = place.launch(&place.offers("spot", 2, &[("c6i.large", Purchase::Spot)])).unwrap();
    assert_eq!(place.describe().keys().cloned().collect::<Vec<_>>(), ids(&spot).into_iter().collect::<Vec<_>>());
    let all: Vec<_> = ids(&spot).into_iter().collect();
    assert!(matches!(place.terminate(&all), Err(CloudError::Retry { .. })));
    place.standin.script("{}");
    place.terminate(&all).unwrap();
    until("they have ended", || place.describe().values().all(|r| r.state == InstanceState::Terminated));
}

/// By its id EC2 tells of any instance of the account, and whose it is, is in its tags alone.
#[test]
fn an_instance_of_another_cluster_or_of_nobody_is_not_found_and_may_claim_nothing() {
    let place = Ec2::new("foreign");
    let own = place.launch(&place.offers("own", 1, &[("t3.micro", Purchase::Burstable)])).unwrap();
    let launched = |tag: &str| {
        let subnet = place.standin.subnet("us-east-1a");
        let made = place.standin.api(&format!(
            "Action=RunInstances&ImageId=ami-1&InstanceType=t3.micro&MinCount=1&MaxCount=1\
             &NetworkInterface.1.DeviceIndex=0&NetworkInterface.1.SubnetId={subnet}\
             &TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key={tag}\
             &TagSpecification.1.Tag.1.Value=another"
        ));
        (InstanceId::new(field(&made.text, "instanceId")), field(&made.text, "privateIpAddress").parse().unwrap())
    };
    let claimed = |id: &InstanceId, peer: IpAddr| {
        let proof = InstanceProof::Token("any".to_owned());
        let claim = Claim { instance: id.clone(), peer, key: KeyFingerprint::of(b"a key"), proof };
        place.runtime().block_on(place.cloud().claim(&claim)).unwrap_err()
    };
    for (id, address) in [launched("pilotlight.dev/cluster"), launched("Name")] {
        assert_eq!(place.runtime().block_on(place.cloud().find(&id)).unwrap(), None);
        let refused = claimed(&id, address);
        assert!(matches!(&refused, ClaimError::NotAdmitted(_, Refusal::Unknown)), "{refused}");
        assert!(!place.describe().contains_key(&id));
    }
    // One of ours is found, and refused for its proof alone.
    let record = &own.records[0];
    let found = place.runtime().block_on(place.cloud().find(&record.id)).unwrap().expect("it is found");
    let refused = claimed(&record.id, found.private_ip.unwrap());
    assert!(matches!(&refused, ClaimError::BadProof(..)), "{refused}");
}

/// Whoever reaches the agents' port may claim anything, and what EC2 is asked for it our own lists have to spare.
#[test]
fn hundreds_of_claims_of_unknown_instances_cost_few_calls_and_hold_up_none_of_an_instance_that_is_known() {
    let place = Ec2::new("strangers");
    let own = place.launch(&place.offers("own", 1, &[("t3.micro", Purchase::Burstable)])).unwrap();
    let claim = |id: String| {
        let proof = InstanceProof::Token("any".to_owned());
        Claim { instance: InstanceId::new(id), peer: [10, 0, 0, 9].into(), key: KeyFingerprint::of(b"a key"), proof }
    };
    let all = |ids: Vec<String>| {
        let claims: Vec<Claim> = ids.into_iter().map(claim).collect();
        let before = place.calls("DescribeInstances");
        let cloud = place.cloud();
        let answers =
            place.runtime().block_on(futures::future::join_all(claims.iter().map(|claim| cloud.claim(claim))));
        let count =
            |of: fn(&ClaimError) -> bool| answers.iter().filter(|answer| of(answer.as_ref().unwrap_err())).count();
        let unknown = count(|error| matches!(error, ClaimError::NotAdmitted(_, Refusal::Unknown)));
        let unsettled = count(|error| matches!(error, ClaimError::Unsettled(..)));
        (unknown, unsettled, place.calls("DescribeInstances") - before)
    };
    assert_eq!(all((0..300).map(|n| format!("i-{n}")).collect()), (300, 0, 0), "no instance has such an id");
    let (unknown, unsettled, calls) = all((0..300).map(|n| format!("i-{n:017x}")).collect());
    assert!(unknown >= 50 && unsettled >= 200 && calls <= 4, "{unknown} {unsettled} {calls}");
    let answer = place.runtime().block_on(place.cloud().claim(&claim(own.records[0].id.to_string()))).unwrap_err();
    assert!(!matches!(answer, ClaimError::Unsettled(..)), "{answer}");
}

#[test]
fn one_that_ended_by_itself_is_told_of_with_its_reason() {
    let place = Ec2::new("reason");
    let launched = place.launch(&place.offers("one", 1, &[("c6i.large", Purchase::Spot)])).unwrap();
    let id = &launched.records[0].id;
    place.describe();
    place.standin.post(&format!("/standin/instances/{id}/interrupt?seconds=0"), "");
    let mut reason = None;
    until("its end is told", || {
        let end = place.describe().remove(id).filter(|r| r.state == InstanceState::Terminated);
        reason = end.and_then(|r| r.state_reason);
        reason.is_some()
    });
    assert!(reason.clone().unwrap().contains("Spot instance termination"), "{reason:?}");
}

#[test]
fn without_rights_everything_is_refused_with_the_code_and_comes_back_with_them() {
    let place = Ec2::new("denied");
    place.standin.script(r#"{"faults": [{"action": "*", "code": "AuthFailure"}]}"#);
    let described = place.runtime.block_on(place.cloud().describe());
    assert!(
        matches!(&described, Err(CloudError::Refused { message, .. }) if message.contains("AuthFailure")),
        "{described:?}"
    );
    let before = place.calls("DescribeInstances");
    for _ in 0..20 {
        assert!(place.runtime.block_on(place.cloud().describe()).is_err());
    }
    assert!(place.calls("DescribeInstances") <= before + 2, "EC2 is not asked again and again");
    assert!(place.launch(&place.offers("one", 1, &[("t3.micro", Purchase::Burstable)])).is_err());
    place.standin.script("{}");
    until("it is described again", || place.runtime.block_on(place.cloud().describe()).is_ok());
    place.launch(&place.offers("one", 1, &[("t3.micro", Purchase::Burstable)])).unwrap();
}

#[test]
fn whatever_may_not_be_ended_keeps_nothing_else_from_its_end_and_is_named() {
    /// Of another cluster: the shipped policy denies their end, and EC2 names one of them at a time.
    const OTHERS: u64 = 12;
    let place = Ec2::on(StandIn::judging("contract"));
    let launched = place.launch(&place.offers("own", 3, &[("t3.micro", Purchase::Burstable)])).unwrap();
    let (subnet, tag) = (place.standin.subnet("us-east-1a"), "Tag.1.Key=pilotlight.dev%2Fcluster");
    let others = place.standin.by_another(&format!(
        "Action=RunInstances&ImageId=ami-1&InstanceType=t3.micro&MinCount={OTHERS}&MaxCount={OTHERS}&SubnetId={subnet}\
         &TagSpecification.1.ResourceType=instance&TagSpecification.1.{tag}&TagSpecification.1.Tag.1.Value=other"
    ));
    let others: Vec<InstanceId> = fields(&others, "instanceId").into_iter().map(InstanceId::new).collect();
    let gone = InstanceId::new("i-00000000000000000");
    let all: Vec<InstanceId> = others.iter().chain([&gone]).cloned().chain(ids(&launched)).collect();
    let before = place.calls("TerminateInstances");
    let refused = place.terminate(&all);
    let Err(CloudError::Refused { code, message, .. }) = &refused else { panic!("it is not refused: {refused:?}") };
    assert_eq!(code, "UnauthorizedOperation");
    assert_eq!(others.len() as u64, OTHERS);
    assert!(others.iter().all(|id| message.contains(id.as_str())), "{message}");
    // What is gone is denied too, as it has no tags any more: nobody needs to know.
    assert!(ids(&launched).iter().chain([&gone]).all(|id| !message.contains(id.as_str())), "{message}");
    assert_eq!(place.calls("TerminateInstances") - before, OTHERS + 2);
    until("ours have ended", || place.describe().values().all(|r| r.state == InstanceState::Terminated));
    place.terminate(&[gone]).unwrap();
}

/// By what is granted at each action that makes something with tags, without the one of that name.
#[test]
fn a_right_to_tag_that_lacks_for_one_action_is_told_of_that_action_alone() {
    let shipped =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/aws/iam-policy.json")).unwrap();
    for lacks in ["CreateFleet", "CreateLaunchTemplate", "RunInstances"] {
        let mut policy: serde_json::Value = serde_json::from_str(&shipped).unwrap();
        let statements = policy["Statement"].as_array_mut().unwrap();
        let tagging = statements.iter_mut().find(|statement| statement["Action"] == "ec2:CreateTags").unwrap();
        let at = tagging["Condition"]["StringEquals"]["ec2:CreateAction"].as_array_mut().unwrap();
        at.retain(|action| action != lacks);
        assert_eq!(at.len(), 2);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), policy.to_string()).unwrap();
        let place = Ec2::on(StandIn::judging_by(&format!("contract-{lacks}"), "contract", file.path()));
        // By which fleets are judged.
        let tag = "TagSpecification.1.Tag.1.Key=pilotlight.dev%2Fcluster&TagSpecification.1.Tag.1.Value=contract";
        place.standin.by_another(&format!(
            "Action=CreateLaunchTemplate&LaunchTemplateName=pilotlight-contract-known&LaunchTemplateData.ImageId=ami-1\
             &TagSpecification.1.ResourceType=launch-template&{tag}"
        ));
        let told = place.runtime.block_on(async { Ec2Cloud::permissions(&place.config, &place.shared().await).await });
        let right = |action: &str| {
            let found: Vec<_> = told.iter().filter(|permission| permission.action == action).collect();
            assert_eq!(found.len(), 1, "{action}");
            found[0].right.clone()
        };
        for action in ["CreateFleet", "CreateLaunchTemplate", "RunInstances"] {
            let (made, tags) = (right(&format!("ec2:{action}")), right(&format!("ec2:CreateTags at {action}")));
            if action == lacks {
                assert!(matches!(&made, Right::Unclear(why) if why.contains("ec2:CreateTags")), "{action}: {made:?}");
                assert!(matches!(&tags, Right::Denied(why) if why.contains("ec2:CreateTags")), "{action}: {tags:?}");
            } else {
                assert_eq!((made, tags), (Right::Granted, Right::Granted), "{action}, without tags at {lacks}");
            }
        }
    }
}

#[test]
fn a_burstable_instance_has_the_credits_that_were_asked_for_whichever_way_it_is_launched_and_no_other_has_any() {
    let place = Ec2::new("credits");
    let ways: [(&str, &[(&str, Purchase)]); 3] = [
        ("run", &[("t3.micro", Purchase::Burstable)]),
        ("spot", &[("t3.micro", Purchase::Spot)]),
        ("fleet", &[("t3.micro", Purchase::Burstable), ("c6i.large", Purchase::OnDemand)]),
    ];
    for (way, offers) in ways {
        for (credits, word) in [(CreditMode::Standard, "standard"), (CreditMode::Unlimited, "unlimited")] {
            let request = LaunchRequest { credits, ..place.offers(&format!("{way}-{word}"), 1, offers) };
            let launched = place.launch(&request).unwrap();
            let [record] = &launched.records[..] else { panic!("{launched:?}") };
            assert_eq!(record.instance_type, "t3.micro", "{way}");
            let told =
                place.standin.api(&format!("Action=DescribeInstanceCreditSpecifications&InstanceId.1={}", record.id));
            assert_eq!(field(&told.text, "cpuCredits"), word, "{way}: {}", told.text);
        }
    }
    let other = place.launch(&place.offers("other", 1, &[("c6i.large", Purchase::OnDemand)])).unwrap();
    let told =
        place.standin.api(&format!("Action=DescribeInstanceCreditSpecifications&InstanceId.1={}", other.records[0].id));
    assert_eq!(field(&told.text, "Code"), "InstanceCreditSpecification.NotSupported", "{}", told.text);
}

#[test]
fn many_launches_at_once_wait_for_ec2s_limits_and_none_is_throttled() {
    let place = Ec2::new("limits");
    let requests: Vec<_> =
        (0..9).map(|n| place.offers(&format!("batch-{n}"), 3, &[("t3.micro", Purchase::Burstable)])).collect();
    let all = place.runtime.block_on(async {
        let cloud = place.cloud();
        futures::future::join_all(requests.iter().map(|request| cloud.launch(request))).await
    });
    assert!(all.iter().all(|launched| launched.as_ref().is_ok_and(|launched| launched.records.len() == 3)));
    assert_eq!((place.throttled(), place.calls("RunInstances")), (0, 9));
    let ended: Vec<_> = all.iter().flat_map(|launched| ids(launched.as_ref().unwrap())).collect();
    let cloud = place.cloud();
    let ends = ended.iter().map(|id| cloud.terminate(std::slice::from_ref(id)));
    let ends = place.runtime.block_on(futures::future::join_all(ends));
    assert!(ends.iter().all(Result::is_ok));
    assert_eq!(place.calls("TerminateInstances"), 1, "one call for all that are ended at once");
}

#[test]
fn what_was_left_behind_is_found_twice_and_ended_and_what_is_in_use_or_of_others_is_not() {
    /// Of a configuration of before.
    const OLD: &str = "pilotlight-contract-0";
    let place = Ec2::new("leaks");
    let launched = place.launch(&place.offers("one", 1, &[("t3.micro", Purchase::Burstable)])).unwrap();
    let used = fields(&place.listed("LaunchTemplates"), "launchTemplateName");
    let tagged = |kind: &str, cluster: &str| {
        format!(
            "&TagSpecification.1.ResourceType={kind}&TagSpecification.1.Tag.1.Key=pilotlight.dev/cluster&TagSpecification.1.Tag.1.Value={cluster}"
        )
    };
    let volume = |cluster: &str| {
        let made = place
            .standin
            .api(&format!("Action=CreateVolume&Size=1&AvailabilityZone=us-east-1a{}", tagged("volume", cluster)));
        field(&made.text, "volumeId")
    };
    let (leaked, foreign) = (volume("contract"), volume("another"));
    let interface = place.standin.api(&format!(
        "Action=CreateNetworkInterface&SubnetId={}{}",
        place.standin.subnet("us-east-1a"),
        tagged("network-interface", "contract")
    ));
    let interface = field(&interface.text, "networkInterfaceId");
    let old = format!(
        "Action=CreateLaunchTemplate&LaunchTemplateName={OLD}&LaunchTemplateData.ImageId=ami-1{}",
        tagged("launch-template", "contract")
    );
    assert_eq!(place.standin.api(&old).status, 200);
    let left = || {
        let [volumes, interfaces, templates] =
            ["Volumes", "NetworkInterfaces", "LaunchTemplates"].map(|what| place.listed(what));
        // A name that is in use may begin like the old one's.
        let templates = fields(&templates, "launchTemplateName");
        volumes.contains(&leaked) || interfaces.contains(&interface) || templates.iter().any(|name| name == OLD)
    };
    assert!(left());
    until_looked(GENTLY, "it is swept", || !left());
    assert!(place.listed("Volumes").contains(&foreign));
    let templates = fields(&place.listed("LaunchTemplates"), "launchTemplateName");
    assert_eq!(templates, used);
    assert!(place.describe().contains_key(&launched.records[0].id));
}

#[test]
fn a_stopped_instance_is_terminated() {
    let place = Ec2::new("stopped");
    let launched = place.launch(&place.offers("two", 2, &[("t3.micro", Purchase::Burstable)])).unwrap();
    let [stopped, runs] = [0, 1].map(|n| launched.records[n].id.clone());
    place.describe();
    assert_eq!(place.standin.api(&format!("Action=StopInstances&InstanceId.1={stopped}")).status, 200);
    until("it is terminated", || place.describe().get(&stopped).is_some_and(|r| r.state == InstanceState::Terminated));
    assert_eq!(place.describe()[&runs].state, InstanceState::Running, "the other one runs on");
}

#[test]
fn a_launch_template_that_no_launch_uses_is_deleted_and_made_anew_for_the_next() {
    let mut place = Ec2::new("idle");
    place.config.template_idle = Duration::from_secs(2);
    place.restart();
    let templates = |place: &Ec2| fields(&place.listed("LaunchTemplates"), "launchTemplateName");
    for round in 1..=2 {
        let wanted = place.offers(&format!("round-{round}"), 1, &[("t3.micro", Purchase::Burstable)]);
        let launched = place.launch(&wanted).unwrap();
        assert_eq!(place.calls("CreateLaunchTemplate"), round);
        place.terminate(&[launched.records[0].id.clone()]).unwrap();
        until_looked(GENTLY, "nothing is left", || templates(&place).is_empty());
    }
}

#[test]
fn what_ec2_sells_is_asked_for_page_by_page_and_a_refusal_is_told_apart_from_a_failure() {
    let place = Ec2::new("vendor");
    let vendor = place.runtime.block_on(async { place.cloud.as_ref().unwrap().vendor(&place.shared().await) }).unwrap();
    let text = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
    let run = &place.runtime;

    // More than a page has: of all that moto knows.
    let types = run.block_on(vendor.types(&text(&["c*", "m*", "t3.micro"]))).unwrap();
    let of = |name: &str| types.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("{name} is not told"));
    assert!(types.len() > 100 && place.calls("DescribeInstanceTypes") > 1, "{}", types.len());
    assert_eq!(
        (of("c6i.large").vcpus, of("c6i.large").memory_mib, of("c6i.large").burstable),
        (Some(2), Some(4096), false)
    );
    assert!(of("t3.micro").burstable && of("m7g.large").architectures == ["arm64"]);
    assert!(!types.iter().any(|t| t.name.contains("metal") || t.name.starts_with("r")));
    let mut names: Vec<&str> = types.iter().map(|t| t.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), types.len(), "each once");

    let zones = text(&["us-east-1a", "us-east-1b"]);
    let sold = run.block_on(vendor.zones(&zones)).unwrap();
    assert!(sold.len() > 1000 && sold.iter().all(|s| zones.contains(&s.zone)), "{}", sold.len());

    place
        .standin
        .script(r#"{"prices": {"spot:c6i.large:us-east-1b": "0.0123", "on-demand:m6i.large:*": "0.0990000000"}}"#);
    let listed = run.block_on(vendor.on_demand()).unwrap();
    let price = |name: &str| listed.iter().find(|p| p.instance_type == name).map(|p| p.price.as_str());
    assert_eq!((price("c6i.large"), price("m6i.large")), (Some("0.0850000000"), Some("0.0990000000")));
    let spot = run.block_on(vendor.spot(&text(&["c6i.large", "m6i.large"]), &zones)).unwrap();
    let pools: Vec<_> = spot.iter().map(|p| (p.instance_type.as_str(), p.zone.as_str(), p.product.as_str())).collect();
    assert_eq!(pools.len(), 4, "{pools:?}");
    assert!(pools.iter().all(|(.., product)| *product == "Linux/UNIX"));
    assert!(spot.iter().any(|p| p.price == "0.0123" && p.zone == "us-east-1b"));

    for (code, denied) in [("UnauthorizedOperation", true), ("AccessDeniedException", true), ("InternalError", false)] {
        place.standin.script(&format!(r#"{{"faults": [{{"action": "*", "code": "{code}"}}]}}"#));
        let answers = run.block_on(async {
            [
                vendor.types(&text(&["c6i.*"])).await.err(),
                vendor.zones(&zones).await.err(),
                vendor.on_demand().await.err(),
                vendor.spot(&text(&["c6i.large"]), &zones).await.err(),
            ]
        });
        for answer in answers {
            let answer = answer.unwrap();
            assert_eq!(matches!(answer, VendorError::Denied(_)), denied, "{code}: {answer}");
            assert!(answer.to_string().contains(code), "{answer}");
        }
    }
}

#[test]
fn hundreds_are_a_few_calls_and_every_one_has_its_price() {
    let place = Ec2::new("hundreds");
    let offers = BTreeMap::from([("c6i.large", 30_000), ("m6i.large", 31_000)]);
    let mut wanted = place.offers("many", 200, &[]);
    wanted.allocation = Allocation::PriceCapacityOptimized;
    wanted.offers = offers
        .iter()
        .map(|(name, price)| Offer {
            instance_type: (*name).to_owned(),
            purchase: Purchase::Spot,
            price: HourlyPrice(*price),
        })
        .collect();
    let launched = place.launch(&wanted).unwrap();
    assert_eq!((ids(&launched).len(), place.throttled()), (200, 0));
    assert_eq!(place.standin.get("/standin/calls")["launched"], 200);
    // A slow machine's stand-in is asked again with the same token.
    assert!((2..=6).contains(&place.calls("CreateFleet")), "{}", place.calls("CreateFleet"));
    let described = place.describe();
    assert_eq!(described.len(), 200);
    assert!(described.values().all(|r| r.price == HourlyPrice(offers[r.instance_type.as_str()])));
}
