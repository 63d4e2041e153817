//! An S3 server in this process, which checks signatures and checksums.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpError, HttpResponse};
use tokio::net::TcpListener;
use tokio::sync::RwLock;
use tokio::task::JoinHandle;

use super::{ACCESS_KEY, SECRET_KEY};

/// A running server.
#[derive(Debug)]
pub struct S3Server {
    port: u16,
    accept_loop: JoinHandle<()>,
}

impl S3Server {
    /// Serves `root` (one folder per bucket) on a free loopback port.
    ///
    /// # Errors
    /// When the folder cannot be made or no port is free.
    pub async fn start(root: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(root)?;
        let files = s3s_fs::FileSystem::new(root)
            .map_err(|error| anyhow::anyhow!("{error:?}"))
            .with_context(|| format!("serve {} as S3", root.display()))?;
        Self::serve(files).await
    }

    /// Serves `store` on a free loopback port.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn serve(store: impl s3s::S3) -> anyhow::Result<Self> {
        let mut builder = S3ServiceBuilder::new(store);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build();

        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let accept_loop = tokio::spawn(async move {
            let http = Builder::new(TokioExecutor::new());
            let objects = Arc::new(RwLock::new(()));
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                let (service, objects) = (service.clone(), Arc::clone(&objects));
                let answer = service_fn(move |request| {
                    let (service, objects) = (service.clone(), Arc::clone(&objects));
                    async move { answer(&service, &objects, request).await }
                });
                let connection = http.serve_connection(TokioIo::new(socket), answer).into_owned();
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "s3 connection ended");
                    }
                });
            }
        });
        Ok(Self { port, accept_loop })
    }

    /// The URL to give as `--s3-endpoint`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Stops accepting connections.
    pub async fn stop(self) {
        self.accept_loop.abort();
        // A cancelled task ends in an error that says so; there is nothing else to learn from it.
        let _ = self.accept_loop.await;
    }
}

/// A write is there as a whole or not at all, as in S3: a folder has the bytes of an object in one file and their checksum in another,
/// which two writers at a time would mix.
async fn answer(
    service: &S3Service,
    objects: &RwLock<()>,
    request: Request<Incoming>,
) -> Result<HttpResponse, HttpError> {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        let _shared = objects.read().await;
        return service.call(request.map(Body::from)).await;
    }
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        // Whoever sent it is gone.
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(answer);
    };
    let _alone = objects.write().await;
    service.call(Request::from_parts(head, Body::from(body.to_bytes()))).await
}
