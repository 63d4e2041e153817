//! The broker under test and ways to come between it and us.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use captionfleet_proto::broker::rabbitmq::{RabbitMq, RabbitMqOptions};
use captionfleet_proto::broker::{Broker, Topology};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The delay of the first retry in these tests.
pub const RETRY_DELAY: Duration = Duration::from_millis(700);
/// The broker's delivery limit in these tests.
pub const DELIVERY_LIMIT: u32 = 2;
/// How long an unused mailbox lives in these tests.
pub const MAILBOX_EXPIRY: Duration = Duration::from_secs(6);

/// Queues of a case of its own: short delays, a low delivery limit, a prefix that nobody else has.
///
/// # Panics
/// Never: the prefix is well formed.
pub fn topology(case: &str) -> Topology {
    static CASES: AtomicU32 = AtomicU32::new(0);
    let number = CASES.fetch_add(1, Ordering::Relaxed);
    let prefix = format!("test.{case}.{}.{number}.{:08x}", std::process::id(), rand::random::<u32>());
    Topology::with_prefix(&prefix)
        .expect("the prefix is short")
        .with_retry_delays([RETRY_DELAY])
        .with_delivery_limit(DELIVERY_LIMIT)
        .with_mailbox_expiry(MAILBOX_EXPIRY)
}

/// The address of the test broker.
///
/// # Panics
/// If the test command did not name one.
pub fn broker_uri() -> String {
    std::env::var("CAPTIONFLEET_TEST_AMQP").expect(
        "CAPTIONFLEET_TEST_AMQP is not set: run the repository's test command, which starts a RabbitMQ",
    )
}

/// `host:port` of the test broker.
pub fn broker_authority() -> String {
    let uri = broker_uri();
    let authority = uri.split("://").nth(1).and_then(|rest| rest.split('/').next()).expect("a URI");
    authority.rsplit('@').next().expect("a host").to_owned()
}

/// The test broker's address by way of another port, here on loopback.
pub fn uri_through(port: u16) -> String {
    broker_uri().replace(&broker_authority(), &format!("127.0.0.1:{port}"))
}

/// A connection to the test broker's address as changed by `change`.
pub async fn connect(
    uri: String,
    topology: &Topology,
    change: impl FnOnce(&mut RabbitMqOptions),
) -> Arc<dyn Broker> {
    let mut options = RabbitMqOptions::new([uri], topology.clone());
    change(&mut options);
    Arc::new(RabbitMq::connect(options).await.expect("the test broker accepts the connection"))
}

/// How long anything takes to pass when it is [`Weather::Slow`].
pub const LATENCY: Duration = Duration::from_millis(300);

/// What the proxy does to the connections through it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Weather {
    /// Passes everything on.
    Fair,
    /// Connections stay open and nothing passes, in either direction.
    HalfOpen,
    /// Existing connections are cut and new ones refused.
    Down,
    /// Everything that passes through connections made in it takes [`LATENCY`].
    Slow,
}

/// A TCP proxy to the test broker.
pub struct Proxy {
    pub port: u16,
    weather: watch::Sender<Weather>,
    listener: JoinHandle<()>,
}

impl Proxy {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let weather = watch::Sender::new(Weather::Fair);
        let target = broker_authority();
        let seen = weather.subscribe();
        let listener = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (target, seen) = (target.clone(), seen.clone());
                tokio::spawn(async move { serve(client, target, seen).await });
            }
        });
        Self { port, weather, listener }
    }

    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Cuts every connection once.
    pub async fn cut(&self) {
        self.set(Weather::Down);
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.set(Weather::Fair);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

async fn serve(mut client: TcpStream, target: String, mut weather: watch::Receiver<Weather>) {
    if *weather.borrow() == Weather::Down {
        return;
    }
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    if *weather.borrow() == Weather::Slow {
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::join!(pass_slowly(from_client, to_server), pass_slowly(from_server, to_client));
        return;
    }
    loop {
        let fair = *weather.borrow_and_update() == Weather::Fair;
        tokio::select! {
            _ = copy_bidirectional(&mut client, &mut server), if fair => return,
            changed = weather.changed() => {
                if changed.is_err() || *weather.borrow() == Weather::Down {
                    return;
                }
            }
        }
    }
}

async fn pass_slowly(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        tokio::time::sleep(LATENCY).await;
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
