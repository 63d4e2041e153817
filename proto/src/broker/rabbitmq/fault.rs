//! What the client library's errors mean to us.

use std::io;

use lapin::ErrorKind;

use super::address::Address;
use crate::broker::{BrokerError, BrokerErrorKind};

/// AMQP reply codes that mean something to us.
const CONNECTION_FORCED: u16 = 320;
const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const RESOURCE_LOCKED: u16 = 405;
const PRECONDITION_FAILED: u16 = 406;
const NOT_ALLOWED: u16 = 530;

/// The kind of an error met while connected.
pub(super) fn kind_of(error: &lapin::Error) -> BrokerErrorKind {
    match error.kind() {
        ErrorKind::ProtocolError(error) => match error.get_id() {
            ACCESS_REFUSED | NOT_ALLOWED => BrokerErrorKind::Refused,
            NOT_FOUND => BrokerErrorKind::NoSuchQueue,
            PRECONDITION_FAILED | RESOURCE_LOCKED => BrokerErrorKind::Declare,
            CONNECTION_FORCED => BrokerErrorKind::Unreachable,
            _ => BrokerErrorKind::Protocol,
        },
        ErrorKind::InvalidProtocolVersion(_)
        | ErrorKind::SerialisationError(_)
        | ErrorKind::AuthProviderError(_)
        | ErrorKind::ChannelsLimitReached => BrokerErrorKind::Protocol,
        _ => BrokerErrorKind::Unreachable,
    }
}

/// Whether the broker closed the channel over what was sent on it, rather than losing the connection.
pub(super) fn is_channel_fault(error: &lapin::Error) -> bool {
    error.is_amqp_soft_error()
}

/// An error of `operation` on `object` while connected.
pub(super) fn broker_error(
    error: lapin::Error,
    operation: &'static str,
    object: impl Into<String>,
) -> BrokerError {
    let failed = BrokerError::new(kind_of(&error), operation, object);
    match failed.kind() {
        BrokerErrorKind::Declare => failed.with_remedy(
            "if it exists with other arguments, drain and delete it or choose another queue prefix",
        ),
        BrokerErrorKind::Refused => failed.with_remedy("give the user configure, write and read permissions"),
        _ => failed,
    }
    .with_source(error)
}

/// An error of an attempt to connect.
pub(super) fn connect_error(error: lapin::Error, address: &Address) -> BrokerError {
    let kind = match error.kind() {
        // Bytes that are not AMQP, or no protocol that both sides speak.
        ErrorKind::ParsingError(_) | ErrorKind::InvalidProtocolVersion(_) => BrokerErrorKind::Unreachable,
        _ => kind_of(&error),
    };
    let remedy = match error.kind() {
        _ if kind == BrokerErrorKind::Refused => "check user, password and virtual host",
        ErrorKind::IOError(error) if address.is_tls() && is_handshake_fault(error) => {
            "is it the TLS port, and is its certificate trusted here"
        }
        ErrorKind::ParsingError(_) | ErrorKind::InvalidProtocolVersion(_) => {
            "is it the AMQP port of RabbitMQ"
        }
        ErrorKind::IOError(error) if error.kind() == io::ErrorKind::ConnectionAborted => {
            "it hung up: is it the AMQP port of RabbitMQ, and does it want amqps://"
        }
        _ => "is RabbitMQ running there",
    };
    let failed = BrokerError::new(kind, "connect to", address.to_string());
    failed.with_remedy(remedy).with_source(error)
}

/// Nobody answered in time.
pub(super) fn connect_timeout(address: &Address) -> BrokerError {
    BrokerError::new(BrokerErrorKind::Unreachable, "connect to", address.to_string())
        .with_remedy("it accepts no connection or does not speak AMQP: is it the right host and port")
}

fn is_handshake_fault(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::Other)
}
