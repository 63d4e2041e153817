//! The metadata service of a cloud's machines, as far as it tells of preemption.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

// 0 is a calm one.
const NOTICE: u8 = 1;
const FAILING: u8 = 2;
const SILENT: u8 = 3;
const ANOTHER: u8 = 4;

/// What Azure calls this machine, and another one of its scale set.
const NAME: &str = "fleet_3";
const ANOTHER_NAME: &str = "fleet_4";

/// A running service; it ends when it is dropped.
#[derive(Debug)]
pub struct MetadataService {
    port: u16,
    cloud: Arc<Speaking>,
    accept_loop: JoinHandle<()>,
}

/// Who speaks, and how.
#[derive(Debug, Default)]
struct Speaking {
    mood: AtomicU8,
    /// Azure alone, and how long it takes over the first question for events; otherwise all three at once.
    azure: Option<Duration>,
    /// Times that Azure's events were asked for, and were told.
    asked: AtomicUsize,
    told: AtomicUsize,
}

impl MetadataService {
    /// Starts a service without news that speaks for Amazon, Google and Azure at once.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start() -> anyhow::Result<Self> {
        Self::speaking(Speaking::default()).await
    }

    /// Starts a service of Azure, of a machine in a scale set, that takes so long over the first question for scheduled events.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start_azure(first: Duration) -> anyhow::Result<Self> {
        Self::speaking(Speaking { azure: Some(first), ..Speaking::default() }).await
    }

    async fn speaking(cloud: Speaking) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let cloud = Arc::new(cloud);
        let shared = Arc::clone(&cloud);
        let accept_loop = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let cloud = Arc::clone(&shared);
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(Arc::clone(&cloud), request));
                    let http = Builder::new(TokioExecutor::new());
                    if let Err(error) = http.serve_connection(TokioIo::new(socket), service).await {
                        tracing::debug!(%error, "a connection to the metadata service ended");
                    }
                });
            }
        });
        Ok(Self { port, cloud, accept_loop })
    }

    /// The URL to give as `--metadata-url`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on the machine is about to be taken away.
    pub fn give_notice(&self) {
        self.cloud.mood.store(NOTICE, Ordering::Relaxed);
    }

    /// From now on another machine of the scale set is about to be taken away.
    pub fn preempt_another(&self) {
        self.cloud.mood.store(ANOTHER, Ordering::Relaxed);
    }

    /// How often Azure's scheduled events were told.
    #[must_use]
    pub fn told(&self) -> usize {
        self.cloud.told.load(Ordering::Relaxed)
    }

    /// From now on every answer is an error.
    pub fn fail(&self) {
        self.cloud.mood.store(FAILING, Ordering::Relaxed);
    }

    /// From now on nothing is answered.
    pub fn fall_silent(&self) {
        self.cloud.mood.store(SILENT, Ordering::Relaxed);
    }
}

impl Drop for MetadataService {
    fn drop(&mut self) {
        self.accept_loop.abort();
    }
}

async fn answer(
    cloud: Arc<Speaking>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mood = cloud.mood.load(Ordering::Relaxed);
    if mood == SILENT {
        return std::future::pending().await;
    }
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let path = request.uri().path();
    let (status, body) = match path {
        _ if mood == FAILING => (500, String::new()),
        _ if header("metadata") == "true" => cloud.azure(path, mood).await,
        _ if cloud.azure.is_some() => (404, String::new()),
        "/latest/api/token" if !header("x-aws-ec2-metadata-token-ttl-seconds").is_empty() => {
            (200, "a-token".to_owned())
        }
        "/latest/meta-data/spot/instance-action" if header("x-aws-ec2-metadata-token") == "a-token" => {
            if mood == NOTICE {
                (200, r#"{"action": "terminate", "time": "2030-01-01T00:00:00Z"}"#.to_owned())
            } else {
                (404, String::new())
            }
        }
        "/computeMetadata/v1/instance/preempted" if header("metadata-flavor") == "Google" => {
            (200, if mood == NOTICE { "TRUE" } else { "FALSE" }.to_owned())
        }
        _ => (401, String::new()),
    };
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    Ok(answer)
}

impl Speaking {
    async fn azure(&self, path: &str, mood: u8) -> (u16, String) {
        match path {
            "/metadata/instance" => (200, "{}".to_owned()),
            "/metadata/instance/compute/name" => (200, NAME.to_owned()),
            "/metadata/scheduledevents" => {
                if let (0, Some(first)) = (self.asked.fetch_add(1, Ordering::Relaxed), self.azure) {
                    tokio::time::sleep(first).await;
                }
                self.told.fetch_add(1, Ordering::Relaxed);
                let (event, machine) = match mood {
                    NOTICE => ("Preempt", NAME),
                    ANOTHER => ("Preempt", ANOTHER_NAME),
                    _ => ("Reboot", NAME),
                };
                (200, format!(r#"{{"Events": [{{"EventType": "{event}", "Resources": ["{machine}"]}}]}}"#))
            }
            _ => (404, String::new()),
        }
    }
}
