//! Broker addresses: checked early, shown without credentials.

use std::fmt;
use std::time::Duration;

use lapin::uri::{AMQPScheme, AMQPUri};
use url::{Host, Url};

use crate::broker::{BrokerError, BrokerErrorKind};

/// One address of the broker. `Debug` and `Display` show it without user and password.
#[derive(Clone)]
pub(super) struct Address {
    uri: AMQPUri,
    shown: String,
}

impl Address {
    pub(super) fn parse(text: &str, heartbeat: Duration) -> Result<Self, BrokerError> {
        // The text may hold a password, even (and above all) when it is not a valid address.
        let invalid = |remedy: &str| {
            BrokerError::new(BrokerErrorKind::InvalidUri, "use", "the broker's address").with_remedy(remedy)
        };
        let url = Url::parse(text)
            .map_err(|error| invalid("write amqp://USER:PASSWORD@HOST:PORT/VHOST").with_source(error))?;
        if !matches!(url.scheme(), "amqp" | "amqps") {
            let shown = format!("{}://…: only amqp:// and amqps:// are understood", url.scheme());
            return Err(invalid(&shown));
        }
        let host = host_of(&url).ok_or_else(|| invalid("the host is missing: amqp://HOST:PORT/VHOST"))?;
        let mut uri: AMQPUri = text.parse().map_err(|_| {
            invalid("check the percent-encoding and the numbers in amqp://USER:PASSWORD@HOST:PORT/VHOST")
        })?;
        // The client library takes a bare IPv6 address for no host at all.
        uri.authority.host = host;
        // `amqp://host/` means the virtual host "" by the letter; everybody who writes it means the default one.
        if uri.vhost.is_empty() {
            "/".clone_into(&mut uri.vhost);
        }
        uri.query.heartbeat.get_or_insert(heartbeat.as_secs().clamp(1, 3600) as u16);
        let shown = show(&uri);
        Ok(Self { uri, shown })
    }

    pub(super) fn uri(&self) -> &AMQPUri {
        &self.uri
    }

    pub(super) fn is_tls(&self) -> bool {
        self.uri.scheme == AMQPScheme::AMQPS
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

fn host_of(url: &Url) -> Option<String> {
    match url.host()? {
        Host::Domain("") => None,
        Host::Domain(name) => {
            Some(percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned())
        }
        Host::Ipv4(address) => Some(address.to_string()),
        Host::Ipv6(address) => Some(address.to_string()),
    }
}

fn show(uri: &AMQPUri) -> String {
    let host = &uri.authority.host;
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let vhost = percent_encoding::utf8_percent_encode(&uri.vhost, percent_encoding::NON_ALPHANUMERIC);
    format!("{}://{host}:{}/{vhost}", uri.scheme, uri.authority.port)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::error::Error;

    use super::*;

    fn parse(text: &str) -> Result<Address, BrokerError> {
        Address::parse(text, Duration::from_secs(10))
    }

    #[test]
    fn shows_everything_but_the_credentials() {
        let address = parse("amqp://me:s3cret%21@broker.example:5673/my%2Fhost").unwrap();
        assert_eq!(address.to_string(), "amqp://broker.example:5673/my%2Fhost");
        assert_eq!(format!("{address:?}"), address.to_string());
        assert_eq!(address.uri().authority.userinfo.password, "s3cret!");
    }

    #[test]
    fn understands_ipv6_default_ports_and_the_default_virtual_host() {
        assert_eq!(parse("amqps://[::1]").unwrap().to_string(), "amqps://[::1]:5671/%2F");
        assert_eq!(parse("amqp://127.0.0.1/").unwrap().to_string(), "amqp://127.0.0.1:5672/%2F");
        assert_eq!(parse("amqp://h?heartbeat=7").unwrap().uri().query.heartbeat, Some(7));
    }

    #[test]
    fn refusals_never_quote_the_password() {
        for text in [
            "http://u:hunter2@host/",
            "u:hunter2@host",
            "amqp://u:hunter2@",
            "amqp://u:hunter2@h/?heartbeat=x",
            "amqp://u:hunter2@h:99999/",
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.kind(), BrokerErrorKind::InvalidUri, "{text}");
            let said = format!("{error} {error:?} {:?}", error.source().map(ToString::to_string));
            assert!(!said.contains("hunter2"), "{said}");
        }
    }
}
