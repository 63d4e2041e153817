//! An S3 front: passes requests on to the real server, except where a rule says what goes wrong.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, Failure>;

/// Requests remembered for whoever watches late.
const WATCHED: usize = 4096;

/// What goes wrong with a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The server answers with this status and S3 error code, without a body where the code is empty, and does nothing.
    Answer(u16, &'static str),
    /// The answer's body comes to its middle and then no further, the connection stays open.
    Stall,
    /// The answer's body comes byte by byte, one in this time.
    Trickle(Duration),
    /// The connection ends in the middle of the answer's body.
    Truncate,
    /// A byte in the middle of the answer's body is another one.
    Damage,
    /// The server does it, and the connection ends without an answer.
    LoseReply,
    /// The server does it, and the answer never comes.
    HoldReply,
    /// The request waits before it is passed on.
    Delay(Duration),
    /// The request waits until the rules are replaced, and is passed on then.
    Hold,
    /// The request is never passed on or answered.
    Swallow,
}

/// Which requests a fault meets.
#[derive(Clone, Debug)]
pub struct Rule {
    method: Option<Method>,
    path_holds: String,
    chance: f64,
    times: Option<u32>,
    fault: Fault,
}

impl Rule {
    /// A fault that meets every request.
    #[must_use]
    pub fn always(fault: Fault) -> Self {
        Self { method: None, path_holds: String::new(), chance: 1.0, times: None, fault }
    }

    /// Only requests with this method.
    #[must_use]
    pub fn method(mut self, method: Method) -> Self {
        self.method = Some(method);
        self
    }

    /// Only requests whose path holds `text`.
    #[must_use]
    pub fn path(mut self, text: impl Into<String>) -> Self {
        self.path_holds = text.into();
        self
    }

    /// Only this share of them.
    #[must_use]
    pub fn chance(mut self, chance: f64) -> Self {
        self.chance = chance;
        self
    }

    /// Only so many times.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    fn meets(&mut self, request: &Seen, dice: &mut StdRng) -> bool {
        let meets = self.method.as_ref().is_none_or(|method| *method == request.method)
            && request.path.contains(&self.path_holds)
            && self.times != Some(0)
            && dice.random_bool(self.chance);
        if meets && let Some(times) = &mut self.times {
            *times -= 1;
        }
        meets
    }
}

/// A request that came by.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Whether a fault met it.
    pub disturbed: bool,
}

/// The running front; it ends when it is dropped.
#[derive(Debug)]
pub struct S3Front {
    port: u16,
    shared: Arc<Shared>,
    accept_loop: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    target: String,
    client: Client<HttpConnector, Full<Bytes>>,
    rules: Mutex<(Vec<Rule>, StdRng)>,
    seen: broadcast::Sender<Seen>,
    replaced: watch::Sender<()>,
}

impl S3Front {
    /// Stands before the server at `endpoint`; `seed` decides which requests are met by chance.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(endpoint: &str, seed: u64) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            target: endpoint.to_owned(),
            client: Client::builder(TokioExecutor::new()).build_http(),
            rules: Mutex::new((Vec::new(), StdRng::seed_from_u64(seed))),
            seen: broadcast::Sender::new(WATCHED),
            replaced: watch::Sender::default(),
        });
        let served = Arc::clone(&shared);
        let accept_loop = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let served = Arc::clone(&served);
                tokio::spawn(async move {
                    let service = service_fn(|request| answer(Arc::clone(&served), request));
                    let http = Builder::new(TokioExecutor::new());
                    if let Err(error) = http.serve_connection(TokioIo::new(socket), service).await {
                        tracing::debug!(%error, "a connection through the S3 front ended");
                    }
                });
            }
        });
        Ok(Self { port, shared, accept_loop })
    }

    /// The URL to give as `--s3-endpoint`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Replaces the rules; the first that meets a request decides.
    pub fn set(&self, rules: impl IntoIterator<Item = Rule>) {
        self.shared.lock().0 = rules.into_iter().collect();
        self.shared.replaced.send_replace(());
    }

    /// Every request from now on.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<Seen> {
        self.shared.seen.subscribe()
    }
}

impl Drop for S3Front {
    fn drop(&mut self) {
        self.accept_loop.abort();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, (Vec<Rule>, StdRng)> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault_of(&self, request: &Request<Incoming>) -> Option<Fault> {
        let path = request.uri().path_and_query().map_or("", |path| path.as_str()).to_owned();
        let mut seen = Seen { method: request.method().clone(), path, disturbed: false };
        let fault = {
            let (rules, dice) = &mut *self.lock();
            rules.iter_mut().find_map(|rule| rule.meets(&seen, dice).then(|| rule.fault.clone()))
        };
        seen.disturbed = fault.is_some();
        // Nobody has to watch.
        let _ = self.seen.send(seen);
        fault
    }

    /// The server's own answer. The `Host` header stays as the client signed it.
    async fn pass_on(&self, request: Request<Incoming>) -> Result<Response<Incoming>, Failure> {
        let (mut head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        head.uri = format!("{}{path}", self.target).parse::<Uri>()?;
        let body = Full::new(body.collect().await?.to_bytes());
        Ok(self.client.request(Request::from_parts(head, body)).await?)
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
    let mut replaced = shared.replaced.subscribe();
    match shared.fault_of(&request) {
        None => Ok(untouched(shared.pass_on(request).await?)),
        Some(Fault::Answer(status, code)) => {
            // The body is read, as a server does that wants to keep the connection.
            request.into_body().collect().await?;
            refusal(status, code)
        }
        Some(Fault::Swallow) => std::future::pending().await,
        Some(Fault::Delay(pause)) => {
            tokio::time::sleep(pause).await;
            Ok(untouched(shared.pass_on(request).await?))
        }
        Some(Fault::Hold) => {
            replaced.changed().await?;
            Ok(untouched(shared.pass_on(request).await?))
        }
        Some(Fault::LoseReply) => {
            shared.pass_on(request).await?.into_body().collect().await?;
            Err("the reply was lost".into())
        }
        Some(Fault::HoldReply) => {
            shared.pass_on(request).await?.into_body().collect().await?;
            std::future::pending().await
        }
        Some(fault @ (Fault::Stall | Fault::Trickle(_) | Fault::Truncate | Fault::Damage)) => {
            let (head, body) = shared.pass_on(request).await?.into_parts();
            let bytes = body.collect().await?.to_bytes();
            Ok(Response::from_parts(head, broken(&bytes, fault)))
        }
    }
}

fn untouched(answer: Response<Incoming>) -> Response<Body> {
    answer.map(|body| body.map_err(Failure::from).boxed_unsync())
}

fn refusal(status: u16, code: &str) -> Result<Response<Body>, Failure> {
    if code.is_empty() {
        let empty = Full::<Bytes>::default().map_err(|never| match never {}).boxed_unsync();
        return Ok(Response::builder().status(StatusCode::from_u16(status)?).body(empty)?);
    }
    let text =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>injected</Message></Error>");
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    Ok(Response::builder().status(StatusCode::from_u16(status)?).body(body)?)
}

/// A body that does not come as the headers promise.
fn broken(bytes: &Bytes, fault: Fault) -> Body {
    let pieces: Vec<Bytes> = match fault {
        Fault::Trickle(_) => bytes.chunks(1).map(Bytes::copy_from_slice).collect(),
        Fault::Damage => vec![damaged(bytes)],
        _ => vec![bytes.slice(..bytes.len() / 2), Bytes::new()],
    };
    let frames =
        stream::unfold((pieces.into_iter(), fault, 0_usize), |(mut pieces, fault, sent)| async move {
            let piece = pieces.next()?;
            match (&fault, sent) {
                (_, 0) => {}
                (Fault::Trickle(pause), _) => tokio::time::sleep(*pause).await,
                (Fault::Stall, _) => std::future::pending().await,
                _ => return Some((Err(Failure::from("the body was truncated")), (pieces, fault, sent + 1))),
            }
            Some((Ok(Frame::data(piece)), (pieces, fault, sent + 1)))
        });
    StreamBody::new(frames).boxed_unsync()
}

fn damaged(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
    bytes.into()
}
