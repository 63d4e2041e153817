//! The metadata service of a cloud's machines, as far as it tells of preemption.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const CALM: u8 = 0;
const NOTICE: u8 = 1;
const FAILING: u8 = 2;
const SILENT: u8 = 3;

/// A running service that speaks for Amazon, Google and Azure at once; it ends when it is dropped.
#[derive(Debug)]
pub struct MetadataService {
    port: u16,
    mood: Arc<AtomicU8>,
    accept_loop: JoinHandle<()>,
}

impl MetadataService {
    /// Starts a service without news.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let mood = Arc::new(AtomicU8::new(CALM));
        let shared = Arc::clone(&mood);
        let accept_loop = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let mood = Arc::clone(&shared);
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(mood.load(Ordering::Relaxed), request));
                    let http = Builder::new(TokioExecutor::new());
                    if let Err(error) = http.serve_connection(TokioIo::new(socket), service).await {
                        tracing::debug!(%error, "a connection to the metadata service ended");
                    }
                });
            }
        });
        Ok(Self { port, mood, accept_loop })
    }

    /// The URL to give as `--metadata-url`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on the machine is about to be taken away.
    pub fn give_notice(&self) {
        self.mood.store(NOTICE, Ordering::Relaxed);
    }

    /// From now on every answer is an error.
    pub fn fail(&self) {
        self.mood.store(FAILING, Ordering::Relaxed);
    }

    /// From now on nothing is answered.
    pub fn fall_silent(&self) {
        self.mood.store(SILENT, Ordering::Relaxed);
    }
}

impl Drop for MetadataService {
    fn drop(&mut self) {
        self.accept_loop.abort();
    }
}

async fn answer(mood: u8, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if mood == SILENT {
        return std::future::pending().await;
    }
    let notice = mood == NOTICE;
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let (status, body) = match request.uri().path() {
        _ if mood == FAILING => (500, ""),
        "/latest/api/token" if !header("x-aws-ec2-metadata-token-ttl-seconds").is_empty() => (200, "a-token"),
        "/latest/meta-data/spot/instance-action" if header("x-aws-ec2-metadata-token") == "a-token" => {
            if notice {
                (200, r#"{"action": "terminate", "time": "2030-01-01T00:00:00Z"}"#)
            } else {
                (404, "")
            }
        }
        "/computeMetadata/v1/instance/preempted" if header("metadata-flavor") == "Google" => {
            (200, if notice { "TRUE" } else { "FALSE" })
        }
        "/metadata/scheduledevents" if header("metadata") == "true" => {
            let events = r#"{"Events": [{"EventType": "Preempt", "NotBefore": ""}]}"#;
            (200, if notice { events } else { r#"{"Events": [{"EventType": "Reboot"}]}"# })
        }
        _ => (401, ""),
    };
    let mut answer = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *answer.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    Ok(answer)
}
