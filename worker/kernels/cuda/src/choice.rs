//! Which token follows.

use crate::launch::{Argument, Launch, Module};
use crate::{SCRATCH, THREADS};

/// The most tokens that the kernel counts, in a float.
const MOST_TOKENS: u32 = 1 << 24;

/// Of each row of logits, the likeliest token and the logarithm of its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Likeliest {
    /// Rows.
    pub rows: u32,
    /// Logits of a row.
    pub width: u32,
    /// Those of them, the first ones, that tokens have; others are not looked at.
    pub valid: u32,
}

impl Likeliest {
    /// With logits in f32, and where token and logarithm go: `(rows, 2)` in f32. `None` if there are more tokens than the
    /// kernel counts, or fewer logits than tokens.
    pub fn launch(&self, logits: u64, out: u64) -> Option<Launch> {
        (self.valid <= self.width.min(MOST_TOKENS)).then(|| Launch {
            module: Module::Choice,
            function: "likeliest".to_owned(),
            grid: (self.rows, 1),
            threads: THREADS,
            shared_bytes: 4 * SCRATCH,
            arguments: vec![
                Argument::Pointer(logits),
                Argument::Pointer(out),
                Argument::U32(self.width),
                Argument::U32(self.valid),
            ],
        })
    }
}
