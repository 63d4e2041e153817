//! The admin port: `/metrics`, `/healthz`, `/readyz`. Reusable by any program with a registry of its own.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::metrics::text_of;
use super::readiness::Readiness;
use super::scraped::tell_readiness;

/// The port that is tried when none is given.
pub const DEFAULT_PORT: u16 = 9464;

/// Where the admin port listens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdminAddr {
    /// Nowhere.
    Off,
    /// On 127.0.0.1:9464, or on a free port if that one is taken.
    #[default]
    Default,
    /// Exactly there.
    At(SocketAddr),
}

impl AdminAddr {
    /// Reads `off`, `default` or `HOST:PORT`.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "default" => Ok(Self::Default),
            _ => {
                let mut addresses = text.to_socket_addrs().map_err(|error| {
                    format!(
                        "`{text}` is not an address ({error}); use HOST:PORT, e.g. 127.0.0.1:9464, or off"
                    )
                })?;
                addresses.next().map(Self::At).ok_or_else(|| format!("`{text}` has no address"))
            }
        }
    }
}

impl std::str::FromStr for AdminAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

/// The running admin port; it closes when this is dropped.
#[derive(Debug)]
pub struct AdminServer {
    /// Where it listens; `None` when it is off.
    pub local_addr: Option<SocketAddr>,
    stop: CancellationToken,
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The admin port cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for metrics; choose another address or switch the admin port off")]
pub struct AdminError {
    address: SocketAddr,
    source: io::Error,
}

/// Opens the admin port and serves it in the background.
pub async fn serve(
    addr: AdminAddr,
    registry: Registry,
    readiness: Arc<Readiness>,
) -> Result<AdminServer, AdminError> {
    let stop = CancellationToken::new();
    let Some(listener) = listen(addr).await? else {
        return Ok(AdminServer { local_addr: None, stop });
    };
    let local_addr = listener.local_addr().ok();
    tell_readiness(&registry, Arc::clone(&readiness));
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(Served { registry, readiness });
    let stopped = stop.clone().cancelled_owned();
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(stopped).await {
            tracing::warn!(%error, "the admin port stopped");
        }
    });
    Ok(AdminServer { local_addr, stop })
}

async fn listen(addr: AdminAddr) -> Result<Option<TcpListener>, AdminError> {
    let at = |address| async move {
        TcpListener::bind(address).await.map_err(|source| AdminError { address, source })
    };
    match addr {
        AdminAddr::Off => Ok(None),
        AdminAddr::At(address) => at(address).await.map(Some),
        AdminAddr::Default => {
            let preferred = SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT));
            if let Ok(listener) = at(preferred).await {
                return Ok(Some(listener));
            }
            let listener = at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
            if let Ok(address) = listener.local_addr() {
                tracing::info!(admin.address = %address, "port {DEFAULT_PORT} is taken, metrics are elsewhere");
            }
            Ok(Some(listener))
        }
    }
}

#[derive(Clone)]
struct Served {
    registry: Registry,
    readiness: Arc<Readiness>,
}

async fn metrics(State(served): State<Served>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text_of(&served.registry))
}

async fn ready(State(served): State<Served>) -> impl IntoResponse {
    let status = if served.readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, served.readiness.describe())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::telemetry::Metrics;

    async fn request(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn tells_metrics_health_and_what_is_missing() {
        let readiness = Readiness::waiting_for(["model", "broker"]);
        let free = AdminAddr::parse("127.0.0.1:0").unwrap();
        let server = serve(free, Metrics::new().registry().clone(), Arc::clone(&readiness)).await.unwrap();
        let address = server.local_addr.unwrap();
        assert!(request(address, "/metrics").await.contains("captionfleet_worker_build_info"));
        assert!(request(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        readiness.ready("model");
        readiness.not_ready("broker", "away since noon");
        let answer = request(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("broker: away since noon"), "{answer}");
        readiness.ready("broker");
        assert!(request(address, "/readyz").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn a_taken_port_is_an_error_only_when_it_was_asked_for() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = AdminAddr::At(taken.local_addr().unwrap());
        let error = serve(address, Registry::new(), Arc::default()).await.unwrap_err();
        assert!(error.to_string().contains("cannot listen on 127.0.0.1"), "{error}");
        let one = serve(AdminAddr::Default, Registry::new(), Arc::default()).await.unwrap();
        let two = serve(AdminAddr::Default, Registry::new(), Arc::default()).await.unwrap();
        assert_ne!(one.local_addr, two.local_addr);
    }

    #[test]
    fn addresses_are_off_or_host_and_port() {
        assert_eq!(AdminAddr::parse("off"), Ok(AdminAddr::Off));
        assert!(matches!(AdminAddr::parse("0.0.0.0:9000"), Ok(AdminAddr::At(_))));
        assert!(AdminAddr::parse("9000").is_err());
    }
}
