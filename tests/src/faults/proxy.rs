//! A TCP proxy with bad weather.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the proxy does to the connections through it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weather {
    /// Passes everything on.
    Fair,
    /// Connections stay open and nothing passes, in either direction.
    HalfOpen,
    /// Existing connections are closed and new ones are closed at once.
    Down,
    /// Existing connections are reset, new ones too.
    Reset,
    /// Every piece waits before it passes.
    Delay(Duration),
    /// At most so many bytes pass per second and direction.
    Throttle(usize),
    /// After so many more bytes in one direction the connection is closed, in the middle of a frame or not.
    Truncate(usize),
}

/// A proxy from a free loopback port to another one; it ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    weather: watch::Sender<Weather>,
    /// Connections of an earlier age pass nothing any more.
    age: Arc<AtomicU64>,
    accept_loop: JoinHandle<()>,
}

impl Proxy {
    /// Starts passing connections on to `target` (`HOST:PORT`).
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(target: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let weather = watch::Sender::new(Weather::Fair);
        let (target, seen) = (target.to_owned(), weather.subscribe());
        let age = Arc::new(AtomicU64::new(0));
        let ages = Arc::clone(&age);
        let accept_loop = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, target.clone(), seen.clone(), Age::now(&ages)));
            }
        });
        Ok(Self { port, weather, age, accept_loop })
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes the weather, for open connections as well as for new ones.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Passes nothing more over the connections that are open now, without telling either end.
    pub fn forget(&self) {
        self.age.fetch_add(1, Ordering::Relaxed);
    }

    /// Closes every connection once.
    pub async fn cut(&self) {
        self.set(Weather::Down);
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.set(Weather::Fair);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accept_loop.abort();
    }
}

/// When a connection was opened, in terms of [`Proxy::forget`].
#[derive(Clone)]
struct Age {
    opened: u64,
    now: Arc<AtomicU64>,
}

impl Age {
    fn now(now: &Arc<AtomicU64>) -> Self {
        Self { opened: now.load(Ordering::Relaxed), now: Arc::clone(now) }
    }

    fn is_over(&self) -> bool {
        self.now.load(Ordering::Relaxed) != self.opened
    }
}

async fn serve(client: TcpStream, target: String, weather: watch::Receiver<Weather>, age: Age) {
    if refuses(&client, *weather.borrow()) {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    let (mut client, mut server) = (client, server);
    {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        // Either end closing, or the weather, ends both directions.
        tokio::select! {
            () = pass(from_client, to_server, weather.clone(), &age) => {}
            () = pass(from_server, to_client, weather.clone(), &age) => {}
        }
    }
    refuses(&client, *weather.borrow());
}

/// Whether connections end in this weather; a reset takes the place of the orderly end.
fn refuses(client: &TcpStream, weather: Weather) -> bool {
    if weather == Weather::Reset
        && let Err(error) = client.set_zero_linger()
    {
        tracing::debug!(%error, "a connection ends without a reset");
    }
    matches!(weather, Weather::Down | Weather::Reset)
}

/// Passes one direction on until an end closes or the weather closes it.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut weather: watch::Receiver<Weather>,
    age: &Age,
) {
    let mut buffer = vec![0; 16 * 1024];
    let mut left = None;
    loop {
        let now = *weather.borrow_and_update();
        if let Weather::Truncate(bytes) = now {
            left.get_or_insert(bytes);
        }
        let room = match now {
            Weather::Throttle(rate) => (rate / 10).clamp(1, buffer.len()),
            Weather::Truncate(_) => left.unwrap_or(0).min(buffer.len()),
            _ => buffer.len(),
        };
        if matches!(now, Weather::Down | Weather::Reset) || room == 0 {
            return;
        }
        let read = tokio::select! {
            read = from.read(&mut buffer[..room]), if now != Weather::HalfOpen => read,
            changed = weather.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let Ok(read @ 1..) = read else { return };
        if age.is_over() {
            std::future::pending::<()>().await;
        }
        match now {
            Weather::Delay(pause) => tokio::time::sleep(pause).await,
            Weather::Throttle(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            _ => {}
        }
        left = left.map(|left| left - read.min(left));
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
