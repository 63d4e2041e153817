//! Ctrl-C and SIGTERM: the first asks to stop in order, the second ends the process.

use std::process::exit;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code of a program that an interrupt ended.
const INTERRUPTED: i32 = 130;

/// A token that is cancelled by the first signal.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if stop.is_cancelled() {
                exit(INTERRUPTED);
            }
            stop.cancel();
        }
    });
    Ok(token)
}
