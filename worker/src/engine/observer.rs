//! Who watches the device thread.

/// A kind of step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Text queries through the retrieval heads.
    Text,
    /// Pictures through the vision tower, the Q-Formers and the projections.
    Vision,
    /// Prompts into their slots.
    Prefill,
    /// One token for every running sequence.
    Decode,
    /// An item of the null engine, which only takes its time.
    Null,
}

impl Stage {
    /// The name in metrics and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Vision => "vision",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Null => "null",
        }
    }
}

/// Told what the device thread did; called on that thread, so it must be quick.
pub trait EngineObserver: Send + Sync {
    /// A step of `rows` rows, of `capacity` that it could have held, took `seconds`.
    fn stage(&self, stage: Stage, seconds: f64, rows: usize, capacity: usize);
    /// `count` tokens were generated.
    fn tokens(&self, count: usize);
    /// The device had no memory left for a step of `rows` rows.
    fn out_of_memory(&self, stage: Stage, rows: usize);
    /// The device waited `seconds` for work.
    fn idle(&self, seconds: f64);
    /// The device begins with a request that has waited `seconds` for its first step.
    fn queued(&self, seconds: f64) {
        let _ = seconds;
    }
}

/// Nobody watches.
#[derive(Debug, Clone, Copy)]
pub struct Unobserved;

impl EngineObserver for Unobserved {
    fn stage(&self, _: Stage, _: f64, _: usize, _: usize) {}
    fn tokens(&self, _: usize) {}
    fn out_of_memory(&self, _: Stage, _: usize) {}
    fn idle(&self, _: f64) {}
}
