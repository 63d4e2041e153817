//! Free loopback ports.

use std::net::{Ipv4Addr, TcpListener};

/// A port that nothing listened on a moment ago.
///
/// # Errors
/// When the loopback interface gives no port at all.
pub fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
