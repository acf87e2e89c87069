//! Registration of instances at a real gateway, over TLS, with STS's signatures checked by the stand-in: the
//! honest way, and every way to get in that should not work.
//!
//! An instance's address is one of the test's own network namespace; what only the instance can know, the
//! credentials of its role, comes from the stand-in.

mod site;

use crate::support::StandIn;
use jiff::SignedDuration;
use pilotlight::{
    model::InstanceId,
    ports::AgentUpdate,
    proto::{IdentityDocument, StsProof, register_request::Proof},
};
use site::{Dialer, Instance, Key, Options, Role, Site, ToSign, document, impersonate, launch, renew, run, stand_in};
use std::{
    io,
    sync::{Arc, Mutex},
};
use tonic::Code;

#[test]
fn an_instance_registers_by_its_role_and_its_key_alone_may_come_again_also_after_a_restart() {
    let standin = stand_in("attest-honest");
    run(async {
        let site = Site::start(standin, Options::default());
        let instance = site.launch("");
        impersonate(instance.address);
        let (key, role) = (Key::new(), Role::of(&site.standin, &instance));
        let dialer = Dialer::at(&site, instance.address);
        let certificate = dialer.by_role(&instance.id, &key, &role, |_| {}).await.unwrap();
        let own = key.with(certificate);
        renew(site.dial(instance.address, Some(&own)).await, &key).await.unwrap();
        // Its answer was lost.
        dialer.by_role(&instance.id, &key, &role, |_| {}).await.unwrap();
        let other = Key::new();
        let denied = |answer: Result<String, tonic::Status>| answer.unwrap_err().code();
        assert_eq!(denied(dialer.by_role(&instance.id, &other, &role, |_| {}).await), Code::PermissionDenied);
        assert_eq!((site.registered(), site.refused("other-key")), (2, 1));

        let site = site.restart().await;
        let dialer = Dialer::at(&site, instance.address);
        assert_eq!(denied(dialer.by_role(&instance.id, &other, &role, |_| {}).await), Code::PermissionDenied);
        // A day later, when its certificate has run out.
        site.pass(SignedDuration::from_hours(25));
        dialer.by_role(&instance.id, &key, &role, |_| {}).await.unwrap();
        assert_eq!((site.registered(), site.refused("other-key")), (1, 1));

        assert_eq!(site.standin.terminate(std::slice::from_ref(&instance.id)).status, 200);
        let renewed = renew(site.dial(instance.address, Some(&own)).await, &key).await;
        assert_eq!(renewed, Err(Code::PermissionDenied), "its certificate is not renewed after its end");
        assert_eq!(denied(dialer.by_role(&instance.id, &key, &role, |_| {}).await), Code::PermissionDenied);
        assert_eq!(site.refused("not-live"), 1);
    });
}

/// What is written to the log while it lives.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// A change to what is signed, by what it tries.
type Change = (&'static str, fn(&mut ToSign));

#[test]
fn every_attack_on_the_signed_proof_is_refused_counted_and_logged_without_secrets() {
    let log = Log::default();
    let standin = stand_in("attest-attacks");
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_writer(move || writer.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    run(async {
        let site = Site::start(standin, Options::default());
        let (victim, other) = (site.launch(""), site.launch(""));
        let stranger = launch(&site.standin, "", "another-cluster");
        for instance in [&victim, &other, &stranger] {
            impersonate(instance.address);
        }
        let role = Role::of(&site.standin, &victim);
        let key = Key::new();
        let mut answers = Vec::new();
        let mut attacks = 0;
        let mut refused = |reason: &str, before: u64, answer: Result<String, tonic::Status>| {
            let status = answer.expect_err(reason);
            assert_eq!(site.refused(reason), before + 1, "{reason}: {}", site.metrics.text());
            answers.push((status.code(), status.message().to_owned(), status.details().to_vec()));
            attacks += 1;
        };
        let at_victim = Dialer::at(&site, victim.address);
        let at_other = Dialer::at(&site, other.address);
        let at_stranger = Dialer::at(&site, stranger.address);

        // Headers, host, URL, body, action, scope: a signature over anything else does not fit.
        let changes: [Change; 11] = [
            ("without the binding", |signed| drop(signed.headers.remove("x-pilotlight-binding"))),
            ("another binding", |signed| drop(signed.headers.insert("x-pilotlight-binding".into(), "0".repeat(64)))),
            ("one more header", |signed| drop(signed.headers.insert("x-amz-more".into(), "1".into()))),
            ("another host", |signed| drop(signed.headers.insert("host".into(), "sts.evil.example".into()))),
            ("without a host", |signed| drop(signed.headers.remove("host"))),
            ("another content type", |signed| drop(signed.headers.insert("content-type".into(), "text/plain".into()))),
            ("another path", |signed| signed.path = "/standin/calls".into()),
            ("another method", |signed| signed.method = "GET".into()),
            ("another action", |signed| signed.body = "Action=GetSessionToken&Version=2011-06-15".into()),
            ("another region", |signed| signed.region = "eu-west-1".into()),
            ("another service", |signed| signed.service = "iam".into()),
        ];
        for (n, (what, change)) in (0..).zip(changes) {
            let answer = at_victim.by_role(&victim.id, &key, &role, change).await;
            assert!(answer.is_err(), "{what}");
            refused("wrong-signature", n, answer);
        }
        let old = |signed: &mut ToSign| signed.at -= SignedDuration::from_mins(6);
        refused("wrong-signature", 11, at_victim.by_role(&victim.id, &key, &role, old).await);
        let guessed = Role { secret: "guessed".into(), ..role.clone() };
        refused("wrong-signature", 12, at_victim.by_role(&victim.id, &key, &guessed, |_| {}).await);

        // Replays of what the victim signed and somebody has got hold of, before it was used or after.
        let honest = {
            let challenge = at_victim.challenge().await;
            ToSign::honest(&challenge, &key).signed(&role, &challenge.nonce)
        };
        let mallory = Key::new();
        let overheard = || Proof::Sts(honest.clone());
        refused("foreign-nonce", 0, at_other.register(&other.id, &key, overheard()).await);
        refused("wrong-address", 0, at_other.register(&victim.id, &key, overheard()).await);
        refused("wrong-signature", 13, at_victim.register(&victim.id, &mallory, overheard()).await);
        refused("used-nonce", 0, at_victim.register(&victim.id, &key, overheard()).await);
        let fresh = at_victim.challenge().await.nonce;
        let renumbered = StsProof { nonce: fresh, ..honest.clone() };
        refused("wrong-signature", 14, at_victim.register(&victim.id, &key, Proof::Sts(renumbered)).await);

        // Nonces that are too old, or made up.
        let challenge = at_victim.challenge().await;
        site.pass(SignedDuration::from_secs(61));
        let late = ToSign::honest(&challenge, &key).signed(&role, &challenge.nonce);
        refused("stale-nonce", 0, at_victim.register(&victim.id, &key, Proof::Sts(late)).await);
        let made_up = ToSign::honest(&challenge, &key).signed(&role, &[7; 56]);
        refused("foreign-nonce", 1, at_victim.register(&victim.id, &key, Proof::Sts(made_up)).await);

        // Another instance of ours, one that is not ours, one that is nobody's.
        refused("other-identity", 0, at_other.by_role(&other.id, &key, &role, |_| {}).await);
        let strangers = Role::of(&site.standin, &stranger);
        refused("unknown-instance", 0, at_stranger.by_role(&stranger.id, &key, &strangers, |_| {}).await);
        refused("other-identity", 1, at_victim.by_role(&victim.id, &key, &strangers, |_| {}).await);
        refused("unknown-instance", 1, at_victim.by_role("i-0fedcba9876543210", &key, &role, |_| {}).await);
        refused("proof-kind", 0, at_victim.register(&victim.id, &key, Proof::LocalToken("guess".into())).await);
        let no_document = Proof::IdentityDocument(document(&site.standin, &victim));
        refused("proof-kind", 1, at_victim.register(&victim.id, &key, no_document).await);

        // Values that would be more than one value.
        let injected = StsProof { date: format!("{}\r\nhost: evil", honest.date), ..honest.clone() };
        refused("malformed", 0, at_victim.register(&victim.id, &key, Proof::Sts(injected)).await);
        let long = StsProof { session_token: "x".repeat(9 << 10), ..honest.clone() };
        refused("malformed", 1, at_victim.register(&victim.id, &key, Proof::Sts(long)).await);
        refused("malformed", 2, at_victim.register("../../etc/passwd", &key, overheard()).await);
        let huge = StsProof { session_token: "x".repeat(1 << 20), ..honest.clone() };
        assert!(at_victim.register(&victim.id, &key, Proof::Sts(huge)).await.is_err());

        // Too late after the launch; then the victim, in time, is still unharmed.
        site.pass(SignedDuration::from_mins(15));
        refused("too-late", 0, at_victim.by_role(&victim.id, &key, &role, |_| {}).await);
        site.pass(-SignedDuration::from_mins(15) - SignedDuration::from_secs(61));

        assert_eq!(site.registered(), 0);
        answers.dedup();
        assert_eq!(answers.len(), 1, "a refusal tells a stranger which check failed: {answers:?}");
        let logged = log.text();
        let warned = logged.lines().filter(|line| line.contains("a registration was refused")).count();
        assert_eq!(warned, attacks, "{logged}");
        for secret in [&role.secret, &role.token, &strangers.secret, &strangers.token, &hex(&honest.signature)] {
            assert!(!logged.contains(secret.as_str()), "a secret is in the log");
        }
    });
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn after_all_the_attacks_the_instance_itself_is_let_in() {
    let standin = stand_in("attest-unharmed");
    run(async {
        let site = Site::start(standin, Options::default());
        let instance = site.launch("");
        impersonate(instance.address);
        let role = Role::of(&site.standin, &instance);
        let dialer = Dialer::at(&site, instance.address);
        let guessed = Role { secret: "guessed".into(), ..role.clone() };
        for _ in 0..20 {
            assert!(dialer.by_role(&instance.id, &Key::new(), &guessed, |_| {}).await.is_err());
        }
        dialer.by_role(&instance.id, &Key::new(), &role, |_| {}).await.unwrap();
    });
}

#[test]
fn of_two_keys_that_prove_the_same_instance_at_once_one_gets_it() {
    let standin = stand_in("attest-race");
    run(async {
        let site = Site::start(standin, Options::default());
        let instance = site.launch("");
        impersonate(instance.address);
        let role = Role::of(&site.standin, &instance);
        let dialer = Dialer::at(&site, instance.address);
        let tries = (0..8).map(|_| {
            let (dialer, instance, role) = (dialer.clone(), instance.clone(), role.clone());
            async move { dialer.by_role(&instance.id, &Key::new(), &role, |_| {}).await }
        });
        let answers = futures::future::join_all(tries).await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "{answers:?}");
        assert_eq!(site.refused("other-key"), 7);
    });
}

#[test]
fn how_long_an_instance_may_take_to_register_is_what_the_policy_says_now() {
    let standin = stand_in("attest-bound");
    run(async {
        let site = Site::start(standin, Options::default());
        let instance = site.launch("");
        impersonate(instance.address);
        let (key, role) = (Key::new(), Role::of(&site.standin, &instance));
        let dialer = Dialer::at(&site, instance.address);
        site.let_register_within(SignedDuration::from_secs(0));
        assert!(dialer.by_role(&instance.id, &key, &role, |_| {}).await.is_err());
        assert_eq!(site.refused("too-late"), 1);
        site.let_register_within(SignedDuration::from_mins(10));
        dialer.by_role(&instance.id, &key, &role, |_| {}).await.unwrap();
    });
}

#[test]
fn an_account_that_is_not_ours_is_refused_where_it_is_named() {
    let standin = stand_in("attest-account");
    run(async {
        let site = Site::start(standin, Options { account: "999999999999", ..Options::default() });
        let instance = site.launch("");
        impersonate(instance.address);
        let role = Role::of(&site.standin, &instance);
        let dialer = Dialer::at(&site, instance.address);
        let answer = dialer.by_role(&instance.id, &Key::new(), &role, |_| {}).await;
        assert_eq!((answer.unwrap_err().code(), site.refused("other-account")), (Code::PermissionDenied, 1));
    });
}

#[test]
fn where_documents_are_taken_one_of_this_instance_lets_one_key_in_for_five_minutes() {
    let standin = stand_in("attest-document");
    run(async {
        let site = Site::start(standin, Options { documents: true, ..Options::default() });
        let (instance, other) = (site.launch(""), site.launch(""));
        for one in [&instance, &other] {
            impersonate(one.address);
        }
        let dialer = Dialer::at(&site, instance.address);
        let at_other = Dialer::at(&site, other.address);
        assert!(dialer.challenge().await.identity_document);
        let (good, others) = (document(&site.standin, &instance), document(&site.standin, &other));
        let key = Key::new();
        let try_it = async |dialer: &Dialer, of: &Instance, key: &Key, document: &IdentityDocument| {
            dialer
                .register(&of.id, key, Proof::IdentityDocument(document.clone()))
                .await
                .map_err(|status| status.code())
        };
        let denied = Err(Code::PermissionDenied);
        let changed = |from: &str, to: &str| {
            let text = String::from_utf8(good.document.to_vec()).unwrap();
            assert!(text.contains(from), "{from} is not in {text}");
            IdentityDocument { document: text.replace(from, to).into_bytes().into(), signature: good.signature.clone() }
        };
        let altered = changed(&instance.id, &other.id);
        assert_eq!(try_it(&dialer, &instance, &key, &altered).await, denied);
        let mixed = IdentityDocument { document: good.document.clone(), signature: others.signature.clone() };
        assert_eq!(try_it(&dialer, &instance, &key, &mixed).await, denied);
        assert_eq!(site.refused("wrong-document-signature"), 2);
        assert_eq!(try_it(&dialer, &instance, &key, &others).await, denied);
        assert_eq!(site.refused("other-document"), 1);
        assert_eq!(try_it(&at_other, &instance, &key, &good).await, denied);
        assert_eq!(site.refused("wrong-address"), 1);
        let no_signature = IdentityDocument { signature: "c2lnbmVk".into(), ..good.clone() };
        assert_eq!(try_it(&dialer, &instance, &key, &no_signature).await, denied);
        assert_eq!(site.refused("malformed"), 1);
        assert!(try_it(&dialer, &instance, &key, &good).await.is_ok());
        assert!(try_it(&dialer, &instance, &key, &good).await.is_ok(), "its answer was lost");
        assert_eq!(try_it(&dialer, &instance, &Key::new(), &good).await, denied);
        assert_eq!(site.refused("other-key"), 1);
        // What the document proof can't do: a certificate that ran out is not to be had again.
        site.pass(SignedDuration::from_mins(6));
        assert_eq!(try_it(&dialer, &instance, &key, &good).await, denied);
        assert_eq!(try_it(&at_other, &other, &key, &others).await, denied);
        assert_eq!(site.refused("stale-document"), 2);
    });
}

#[test]
fn a_machine_that_boots_by_its_user_data_is_attested_by_its_own_agent() {
    let standin = StandIn::with_agent("attest-agent");
    standin.script(r#"{"limits": false}"#);
    run(async {
        let mut site = Site::start(standin, Options { listen: "10.72.0.1:0", ..Options::default() });
        let ca = site.ca.certificate_pem().replace('\n', "\n      ");
        let user_data = format!(
            "#cloud-config
write_files:
- path: /etc/pilotlight/agent.yaml
  permissions: '0600'
  content: |
    cloud: ec2
    cluster: {}
    provider: {}
    caPem: |
      {ca}
- path: /etc/systemd/system/pilotlight-agent.service
  content: |
    [Service]
    ExecStart=/opt/pilotlight/pilotlight-agent --config /etc/pilotlight/agent.yaml
runcmd:
- [systemctl, start, --no-block, pilotlight-agent.service]
",
            site::CLUSTER,
            site.provider(),
        );
        let encoded = crate::support::base64(&user_data).replace('+', "%2B").replace('=', "%3D");
        let instance = site.launch(&format!("&UserData={encoded}"));
        let update = site.updates.recv().await.unwrap();
        let AgentUpdate::Connected { instance: connected, holds } = update else { panic!("{update:?}") };
        assert_eq!((connected, holds), (InstanceId::new(&*instance.id), None));
        assert_eq!(site.registered(), 1);
        assert_eq!(site.standin.terminate(std::slice::from_ref(&instance.id)).status, 200);
        site::until("its machine is gone", || site.standin.remains(&instance.id).is_empty());
    });
}
