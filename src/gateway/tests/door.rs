//! Who is let in to the port: strangers are few and short, and take nothing from agents.

use super::*;
use tokio::net::TcpStream;

fn with(places: Places) -> Provider {
    Provider::with_places(places)
}

/// A TCP connection that says nothing.
async fn silent(provider: &Provider) -> TcpStream {
    TcpStream::connect(provider.gateway.address()).await.unwrap()
}

/// Whether a stranger gets as far as to be refused for his proof.
async fn is_heard(provider: &Provider) -> bool {
    let Ok(channel) = provider.channel(None).await else { return false };
    let answer = BootstrapClient::new(channel).register(registration("i-1", "guess", &Key::new())).await;
    code(&answer) == Some(Code::PermissionDenied)
}

/// A session that lives as long as this does.
struct Held {
    session: tonic::Streaming<crate::proto::ProviderMessage>,
    _client: AgentGatewayClient<Channel>,
    _says: mpsc::Sender<AgentMessage>,
}

async fn session(provider: &Provider, own: &KeyAndCertificate) -> Option<Held> {
    let mut client = AgentGatewayClient::new(provider.channel(Some(own)).await.ok()?);
    let (says, stream) = hello();
    let session = client.session(stream).await.ok()?.into_inner();
    Some(Held { session, _client: client, _says: says })
}

fn refused(provider: &Provider, reason: &str) -> bool {
    provider.metrics.text().contains(&format!("agent_connections_refused_total{{reason=\"{reason}\"}}"))
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let all = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, all).await.unwrap_or_else(|_| panic!("not so after {LONG:?}: {what}"));
}

#[tokio::test]
async fn one_address_has_a_few_places_and_gets_them_back() {
    let provider = with(Places { of_one_address: 2, ..Places::default() });
    assert!(is_heard(&provider).await);
    let mut held = vec![];
    // The place of the connection before may not be free yet.
    until("the places are taken", async || {
        held.push(silent(&provider).await);
        !is_heard(&provider).await
    })
    .await;
    assert!(refused(&provider, "one-address"));
    drop(held);
    until("the places are free again", async || is_heard(&provider).await).await;
}

#[tokio::test]
async fn strangers_take_no_place_of_agents() {
    let provider = with(Places { strangers: 0, ..Places::default() });
    assert!(!is_heard(&provider).await);
    assert!(refused(&provider, "strangers"));
    let own = certificate(&provider.ca, "i-1");
    assert!(session(&provider, &own).await.is_some());
}

#[tokio::test]
async fn a_strangers_connection_ends_after_its_time_and_an_agents_does_not() {
    let mut provider = with(Places { stranger_life: Duration::from_millis(200), ..Places::default() });
    let own = certificate(&provider.ca, "i-1");
    let mut held = session(&provider, &own).await.unwrap();
    provider.connected().await;
    let mut roots = rustls::RootCertStore::empty();
    let ca = <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(
        provider.ca.certificate_pem().as_bytes(),
    );
    roots.add(ca.unwrap()).unwrap();
    let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let mut stranger = connector.connect(name, silent(&provider).await).await.unwrap();
    stranger.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut all = vec![];
    let _ = timeout(LONG, stranger.read_to_end(&mut all)).await.expect("its connection is closed");
    // What is sent to the agent still arrives.
    provider.gateway.set_desired(&InstanceId::new("i-1"), desired(1));
    timeout(LONG, held.session.message()).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_stranger_who_sends_too_much_is_cut_off() {
    let provider = with(Places { stranger_bytes: 20_000, ..Places::default() });
    assert!(is_heard(&provider).await);
    let channel = provider.channel(None).await.unwrap();
    let large = RegisterRequest { csr_pem: "x".repeat(30_000), ..registration("i-1", "guess", &Key::new()) };
    let cut = BootstrapClient::new(channel).register(large).await;
    assert!(!matches!(code(&cut), None | Some(Code::PermissionDenied)), "{cut:?}");
}

#[tokio::test]
async fn one_certificate_opens_a_few_connections() {
    let provider = with(Places { of_one_certificate: 2, ..Places::default() });
    let (own, other) = (certificate(&provider.ca, "i-1"), certificate(&provider.ca, "i-2"));
    let _kept = [session(&provider, &own).await.unwrap(), session(&provider, &own).await.unwrap()];
    assert!(session(&provider, &own).await.is_none());
    assert!(refused(&provider, "one-certificate"));
    assert!(session(&provider, &other).await.is_some());
}
