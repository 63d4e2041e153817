//! What can be set about the connection to RabbitMQ.

use std::fmt;
use std::time::Duration;

use crate::broker::Topology;

/// How to reach RabbitMQ and how patient to be with it.
#[derive(Clone)]
#[non_exhaustive]
pub struct RabbitMqOptions {
    /// `amqp://` or `amqps://` addresses of one broker or of the nodes of one cluster, tried in turn. They carry
    /// the credentials and are never shown.
    pub uris: Vec<String>,
    /// The queues.
    pub topology: Topology,
    /// What the broker's management pages call this connection.
    pub connection_name: String,
    /// How long a publish waits for its confirm before it is sent again over a new connection.
    pub confirm_timeout: Duration,
    /// How long any other request may take, waiting for the broker's return included.
    pub operation_timeout: Duration,
    /// How long one attempt to connect may take, per address.
    pub connect_timeout: Duration,
    /// How long the first connection keeps trying while nobody answers or the login is refused. Zero tries every address once.
    pub patience: Duration,
    /// The heartbeat offered to the broker; a silent peer is given up after two of them.
    pub heartbeat: Duration,
    /// The longest pause between attempts to connect again.
    pub max_backoff: Duration,
    /// Publishes on their way at a time; more callers wait.
    pub window: usize,
    /// Bytes of the bodies on their way at a time.
    pub window_bytes: usize,
}

impl RabbitMqOptions {
    /// Defaults for the broker at `uris`.
    pub fn new(uris: impl IntoIterator<Item = impl Into<String>>, topology: Topology) -> Self {
        Self {
            uris: uris.into_iter().map(Into::into).collect(),
            topology,
            connection_name: "captionfleet".to_owned(),
            confirm_timeout: Duration::from_secs(15),
            operation_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            patience: Duration::ZERO,
            heartbeat: Duration::from_secs(10),
            max_backoff: Duration::from_secs(4),
            window: 1024,
            window_bytes: 32 << 20,
        }
    }

    /// Splits `amqp://a,amqp://b` into addresses. Commas inside one address stay, unless a scheme follows.
    pub fn split_uris(text: &str) -> Vec<String> {
        let mut uris: Vec<String> = Vec::new();
        for piece in text.split(',') {
            match uris.last_mut() {
                Some(last) if !piece.trim_start().starts_with("amqp") => {
                    last.push(',');
                    last.push_str(piece);
                }
                _ => uris.push(piece.to_owned()),
            }
        }
        uris.iter().map(|uri| uri.trim().to_owned()).filter(|uri| !uri.is_empty()).collect()
    }
}

impl fmt::Debug for RabbitMqOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitMqOptions")
            .field("uris", &format_args!("{} not shown", self.uris.len()))
            .field("prefix", &self.topology.prefix())
            .field("connection_name", &self.connection_name)
            .field("confirm_timeout", &self.confirm_timeout)
            .field("operation_timeout", &self.operation_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("patience", &self.patience)
            .field("heartbeat", &self.heartbeat)
            .field("max_backoff", &self.max_backoff)
            .field("window", &self.window)
            .field("window_bytes", &self.window_bytes)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::RabbitMqOptions;
    use crate::broker::Topology;

    #[test]
    fn a_list_of_addresses_splits_at_schemes_only() {
        let uris = RabbitMqOptions::split_uris("amqp://u:a,b@one, amqps://two/v,amqp://three");
        assert_eq!(uris, ["amqp://u:a,b@one", "amqps://two/v", "amqp://three"]);
        assert_eq!(RabbitMqOptions::split_uris(""), Vec::<String>::new());
    }

    #[test]
    fn debug_hides_the_credentials() {
        let options = RabbitMqOptions::new(["amqp://u:hunter2@host"], Topology::default());
        assert!(!format!("{options:?}").contains("hunter2"));
    }
}
