use super::*;
use crate::{
    agent::{ExecOutput, HostError},
    model::{DesiredPod, Generation, PodReport, PodStats, PodUid, Streams},
};
use async_trait::async_trait;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::{io::AsyncBufReadExt, sync::watch, time::timeout};

const LONG: Duration = Duration::from_secs(30);

struct Host {
    path: PathBuf,
    running: AtomicBool,
}

#[async_trait]
impl PodHost for Host {
    fn set_desired(&self, _: Arc<DesiredPod>) {}
    fn holds(&self) -> Option<(PodUid, Generation)> {
        None
    }
    fn report(&self) -> watch::Receiver<Option<Arc<PodReport>>> {
        watch::channel(None).1
    }
    async fn exec(&self, _: &str, _: &[String], _: Streams) -> Result<String, HostError> {
        Err(HostError::NoSandbox)
    }
    async fn attach(&self, _: &str, _: Streams) -> Result<String, HostError> {
        Err(HostError::NoSandbox)
    }
    async fn port_forward(&self, _: &[u16]) -> Result<String, HostError> {
        Err(HostError::NoSandbox)
    }
    async fn exec_sync(&self, _: &str, _: &[String]) -> Result<ExecOutput, HostError> {
        Err(HostError::NoSandbox)
    }
    async fn stats(&self) -> Result<PodStats, HostError> {
        Err(HostError::NoSandbox)
    }
    async fn log_path(&self, _: &str) -> Result<PathBuf, HostError> {
        Ok(self.path.clone())
    }
    async fn is_running(&self, _: &str) -> Result<bool, HostError> {
        Ok(self.running.load(Ordering::SeqCst))
    }
}

struct Log {
    dir: tempfile::TempDir,
    host: Arc<Host>,
}

impl Log {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = Arc::new(Host { path: dir.path().join("0.log"), running: AtomicBool::new(true) });
        std::fs::write(&host.path, "").unwrap();
        Self { dir, host }
    }

    fn append(&self, numbers: impl IntoIterator<Item = u32>) {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&self.host.path).unwrap();
        for number in numbers {
            writeln!(file, "2024-01-01T00:00:00Z stdout F {number}").unwrap();
        }
    }

    fn rotate(&self, suffix: &str) {
        std::fs::rename(&self.host.path, self.dir.path().join(format!("0.log.{suffix}"))).unwrap();
    }

    async fn read(&self, options: LogOptions) -> String {
        let stream = open(Arc::clone(&self.host) as _, "id".into(), options).await.unwrap();
        let mut out = vec![];
        timeout(LONG, stream.copy_to(&mut out)).await.unwrap().unwrap();
        String::from_utf8(out).unwrap()
    }
}

fn lines(numbers: impl IntoIterator<Item = u32>) -> String {
    numbers.into_iter().map(|number| format!("{number}\n")).collect()
}

#[tokio::test]
async fn a_tail_reaches_over_blocks_and_rotated_files() {
    let log = Log::new();
    log.append(0..10);
    log.rotate("20240101-000000");
    log.append(10..5000);
    log.rotate("20240102-000000");
    log.append(5000..5003);
    std::fs::write(log.dir.path().join("0.log.20231231-000000.gz"), "not text").unwrap();
    std::fs::write(log.dir.path().join("1.log"), "of another container").unwrap();
    assert_eq!(log.read(LogOptions::default()).await, lines(0..5003));
    for tail in [0, 1, 3, 4, 4000, 4992, 4993, 4994, 5003, 9999] {
        let options = LogOptions { tail_lines: Some(tail), ..LogOptions::default() };
        assert_eq!(log.read(options).await, lines(5003u32.saturating_sub(tail as u32)..5003), "{tail}");
    }
}

#[tokio::test]
async fn following_goes_over_a_rotation_and_stops_when_the_container_has_ended() {
    let log = Log::new();
    log.append(0..3);
    let options = LogOptions { follow: true, tail_lines: Some(1), ..LogOptions::default() };
    let stream = open(Arc::clone(&log.host) as _, "id".into(), options).await.unwrap();
    let (mut write, read) = tokio::io::duplex(1024);
    let copied = tokio::spawn(async move { stream.copy_to(&mut write).await });
    let mut reader = tokio::io::BufReader::new(read).lines();
    let mut next = async || timeout(LONG, reader.next_line()).await.expect("a line in time").unwrap();
    assert_eq!(next().await.as_deref(), Some("2"));
    log.append(3..4);
    assert_eq!(next().await.as_deref(), Some("3"));
    log.append(4..5);
    log.rotate("20240101-000000");
    log.append(5..6);
    assert_eq!(next().await.as_deref(), Some("4"));
    assert_eq!(next().await.as_deref(), Some("5"));
    log.append(6..7);
    log.host.running.store(false, Ordering::SeqCst);
    assert_eq!(next().await.as_deref(), Some("6"));
    assert_eq!(next().await, None);
    copied.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_limit_ends_a_followed_log_too() {
    let log = Log::new();
    log.append(10..20);
    let options = LogOptions { follow: true, limit_bytes: Some(7), ..LogOptions::default() };
    assert_eq!(log.read(options).await, "10\n11\n1");
}
