//! SIGTERM and SIGINT: the first asks to stop in order, the second ends the process.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Ended by a second signal.
const EXIT_KILLED: u8 = 130;

/// A token that is cancelled by the first signal, after `tell` has said what happens now.
pub(super) fn on_signal(tell: impl FnOnce() + Send + 'static) -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let stop = token.clone();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tell();
        stop.cancel();
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        std::process::exit(i32::from(EXIT_KILLED));
    });
    Ok(token)
}
