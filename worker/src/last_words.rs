//! What a process still does when it dies by its own fault: an abort, a segmentation fault, an overflowed stack.
//!
//! A process that was killed from outside (`kill -9`, a lost machine) says nothing. So whoever finds last words knows
//! that the process itself was to blame, and who finds none must give the benefit of the doubt.
//!
//! The signal handler does what a signal handler may: it writes one byte to a pipe and waits a little. A thread that
//! was started in good times reads the byte and does the speaking.

#![allow(unsafe_code)]

use std::future::Future;
use std::io::{PipeReader, Read};
use std::os::fd::IntoRawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use tokio::runtime::Handle;

/// Signals that a process brings upon itself.
const FATAL: [libc::c_int; 5] = [libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];
/// How long a dying process waits for its last words to arrive.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The pipe's end that the handler writes to.
static PIPE: AtomicI32 = AtomicI32::new(-1);
/// Whether there is anything to say.
static ARMED: AtomicBool = AtomicBool::new(false);
/// Whether it has been said.
static SAID: AtomicBool = AtomicBool::new(false);
static WILLS: Mutex<Vec<(u64, Will)>> = Mutex::new(Vec::new());

/// What is to be said, and the runtime that says it.
#[derive(Clone)]
struct Will {
    runtime: Handle,
    words: Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
}

/// Last words that are said if the process dies while this lives.
#[derive(Debug)]
#[must_use = "last words are withdrawn when this is dropped"]
pub(crate) struct LastWords(u64);

impl LastWords {
    /// Prepares `will`, which is said together with all others that are prepared then.
    ///
    /// Must be called within a tokio runtime of several threads, which the will is run on.
    pub(crate) fn prepare<F>(will: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        install();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let will = Will { runtime: Handle::current(), words: Arc::new(move || Box::pin(will())) };
        let mut wills = lock();
        wills.push((number, will));
        ARMED.store(true, Ordering::SeqCst);
        Self(number)
    }
}

impl Drop for LastWords {
    fn drop(&mut self) {
        let mut wills = lock();
        wills.retain(|(number, _)| *number != self.0);
        ARMED.store(!wills.is_empty(), Ordering::SeqCst);
    }
}

fn lock() -> std::sync::MutexGuard<'static, Vec<(u64, Will)>> {
    WILLS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Installs handler and thread, once for the process. Without them the process just dies, as ever.
fn install() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        if let Err(error) = try_install() {
            tracing::warn!(%error, "a crash of this process will not be told");
        }
    });
}

fn try_install() -> std::io::Result<()> {
    let (reader, writer) = std::io::pipe()?;
    std::thread::Builder::new().name("last-words".to_owned()).spawn(move || speak(reader))?;
    PIPE.store(writer.into_raw_fd(), Ordering::SeqCst);
    for signal in FATAL {
        // SAFETY: `on_fatal` only does what is safe in a signal handler, and the action is initialised.
        let installed = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_fatal as *const () as libc::sighandler_t;
            // On the alternate stack, because the ordinary one may be what overflowed.
            action.sa_flags = libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(signal, &raw const action, std::ptr::null_mut())
        };
        if installed != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Waits for the byte, for as long as the process lives.
fn speak(mut reader: PipeReader) {
    if reader.read_exact(&mut [0]).is_err() {
        return;
    }
    let wills = lock().clone();
    if let Some((_, first)) = wills.first() {
        // A process has one runtime that works on jobs.
        first.runtime.block_on(join_all(wills.iter().map(|(_, will)| (will.words)())));
    }
    SAID.store(true, Ordering::SeqCst);
}

/// Only system calls and atomics: the thread that runs this may hold any lock.
extern "C" fn on_fatal(signal: libc::c_int) {
    const TOLD: &[u8] = b"fatal signal: this process dies by its own fault\n";
    // SAFETY: all of these are async-signal-safe, and the buffers are static.
    unsafe {
        libc::write(libc::STDERR_FILENO, TOLD.as_ptr().cast(), TOLD.len());
        if ARMED.load(Ordering::SeqCst) {
            libc::write(PIPE.load(Ordering::SeqCst), TOLD.as_ptr().cast(), 1);
            let pause = libc::timespec { tv_sec: 0, tv_nsec: LOOK_EVERY.subsec_nanos().into() };
            for _ in 0..PATIENCE.as_millis() / LOOK_EVERY.as_millis() {
                if SAID.load(Ordering::SeqCst) {
                    break;
                }
                libc::nanosleep(&raw const pause, std::ptr::null_mut());
            }
        }
        // Blocked while this runs, it ends the process as soon as this returns, with a core if wanted.
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}
