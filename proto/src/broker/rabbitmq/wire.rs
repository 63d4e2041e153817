//! One TCP connection to one broker, and the power to end it.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::{Stream, StreamExt};
use lapin::tcp::{AsyncTcpStream, TLSConfig};
use lapin::types::ShortString;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties, Event};
use tokio::time::timeout;

use super::address::Address;
use super::fault;
use crate::broker::BrokerError;

/// How long a broker that still answers may take over a polite goodbye.
const GOODBYE: Duration = Duration::from_secs(1);
/// `reply_code` of an ordinary close.
const SUCCESS: u16 = 200;

/// An open AMQP connection.
pub(super) struct Wire {
    connection: Connection,
    socket: Socket,
}

/// A second handle on the connection's socket.
///
/// The client library waits for ever for a peer that has gone silent in the middle of a handshake or of a
/// close, with a thread and a file descriptor each time. Shutting the socket down ends that wait.
#[derive(Clone, Default)]
struct Socket(Arc<OnceLock<TcpStream>>);

impl Socket {
    fn shut_down(&self) {
        if let Some(socket) = self.0.get() {
            // Fails only if the peer was faster.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// What the connection reports about itself.
pub(super) type Events = std::pin::Pin<Box<dyn Stream<Item = Event> + Send>>;

impl Wire {
    /// Connects and logs in.
    pub(super) async fn open(
        address: &Address,
        name: &str,
        limit: Duration,
    ) -> Result<(Self, Events), BrokerError> {
        let socket = Socket::default();
        let opening = open(address.uri().clone(), name, limit, socket.clone());
        match timeout(limit, opening).await {
            Ok(Ok(connection)) => {
                let events = connection.events_listener().boxed();
                Ok((Self { connection, socket }, events))
            }
            Ok(Err(error)) => {
                socket.shut_down();
                Err(fault::connect_error(error, address))
            }
            Err(_) => {
                socket.shut_down();
                Err(fault::connect_timeout(address))
            }
        }
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn is_open(&self) -> bool {
        self.connection.status().connected()
    }

    /// Says goodbye if the broker listens, and hangs up in any case.
    pub(super) async fn hang_up(&self) {
        let goodbye = self.connection.close(SUCCESS, ShortString::from("done"));
        if let Ok(Err(error)) = timeout(GOODBYE, goodbye).await {
            tracing::debug!(error = %error, "the connection was gone before it was closed");
        }
        self.socket.shut_down();
    }
}

async fn open(uri: AMQPUri, name: &str, limit: Duration, socket: Socket) -> lapin::Result<Connection> {
    // Without auto-recovery: the link supervises.
    let properties = ConnectionProperties::default()
        .with_connection_name(name.into())
        .with_client_property("product".into(), "captionfleet".into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
    let runtime = lapin::runtime::default_runtime()?;
    Connection::connector(
        uri,
        runtime,
        async move |uri: AMQPUri, runtime| {
            let host = uri.authority.host.as_str();
            let reach = async {
                let addresses: Vec<SocketAddr> =
                    tokio::net::lookup_host((host, uri.authority.port)).await?.collect();
                if addresses.is_empty() {
                    return Err(io::Error::new(io::ErrorKind::NotFound, "the host name has no address"));
                }
                AsyncTcpStream::connect(&runtime, addresses).await
            };
            let stream =
                timeout(limit, reach).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            if let AsyncTcpStream::Plain(plain) = &stream {
                let handle = plain.get_ref().as_fd().try_clone_to_owned()?;
                // The closure runs once per wire, so the slot is empty.
                let _ = socket.0.set(TcpStream::from(handle));
            }
            match uri.scheme {
                lapin::uri::AMQPScheme::AMQP => Ok(stream),
                lapin::uri::AMQPScheme::AMQPS => Ok(stream.into_tls(host, TLSConfig::default()).await?),
            }
        },
        properties,
    )
    .await
}
