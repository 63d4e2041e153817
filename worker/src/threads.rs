//! How many threads the arithmetic takes, told to everyone who asks; and where all threads take their memory from.

use std::num::NonZero;

/// Where rayon and the backend look for their number of threads.
const VARIABLE: &str = "RAYON_NUM_THREADS";
/// Where the backend looks for those of a pool of its own, in which it adds and multiplies values one by one.
const BACKEND: &str = "CANDLE_NUM_THREADS";
/// Where an operator tells glibc how many arenas it may have.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const ARENAS: &str = "MALLOC_ARENA_MAX";

/// Settles the number of threads for arithmetic and decoding, once for the process: `wanted`, or what the environment says,
/// or as many as this process may use.
///
/// The backend asks for its number of threads at every product. Without the variable it counts the cores in
/// `/proc/cpuinfo` each time, which cost a quarter of the demo model's time. Its own pool is left without threads: they wait
/// for each other in a busy loop after every addition, which took two thirds of a training's processor time on a machine
/// that others used as well.
///
/// All of them take memory from one arena, unless `MALLOC_ARENA_MAX` says otherwise: glibc gives each of many threads one, and
/// every picture that another thread decodes leaves holes in another of them, which doubled a worker's memory in half an hour.
///
/// # Safety
/// No other thread may read or write the environment meanwhile: call it first in `main`.
///
/// # Errors
/// If so many threads cannot be started.
pub unsafe fn settle(wanted: Option<usize>) -> Result<(), rayon::ThreadPoolBuildError> {
    let told = || std::env::var(VARIABLE).ok()?.parse().ok().filter(|threads| *threads > 0);
    let threads =
        wanted.or_else(told).unwrap_or_else(|| std::thread::available_parallelism().map_or(1, NonZero::get));
    // SAFETY: the caller's promise.
    unsafe {
        std::env::set_var(VARIABLE, threads.to_string());
        if std::env::var_os(BACKEND).is_none() {
            std::env::set_var(BACKEND, "1");
        }
    }
    share_an_arena();
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()
}

fn share_an_arena() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if std::env::var_os(ARENAS).is_none() {
        // SAFETY: it takes no pointer, and sets nothing but a number of the allocator's own, under the allocator's lock. Should
        // it be refused, which is what its result says, memory is as it would have been.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 1);
        }
    }
}
