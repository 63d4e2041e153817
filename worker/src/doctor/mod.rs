//! Is everything there that the work needs? One finding for each thing, with the remedy where something is amiss.
//!
//! The worker's and the dispatcher's `doctor` are lists of these checks.

mod archive;
mod broker;
mod clock;
mod gpu;
mod host;
mod model;

pub use archive::archive;
pub use broker::{broker, no_broker};
pub use clock::no_clock;
pub use gpu::gpu;
pub use host::{ffmpeg, jpeg};
pub use model::model;

use std::fmt;

use serde::Serialize;

/// What was found out about one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    level: Level,
    what: &'static str,
    text: String,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// Works, but not as well as it could, or not for everything.
    Warn,
    /// Does not work.
    Fail,
}

impl Finding {
    fn ok(what: &'static str, text: impl Into<String>) -> Self {
        Self { level: Level::Ok, what, text: text.into() }
    }

    fn warn(what: &'static str, text: impl Into<String>) -> Self {
        Self { level: Level::Warn, what, text: text.into() }
    }

    fn fail(what: &'static str, text: impl Into<String>) -> Self {
        Self { level: Level::Fail, what, text: text.into() }
    }

    /// Whether the work cannot be done.
    pub fn is_failure(&self) -> bool {
        self.level == Level::Fail
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "fail",
        };
        write!(formatter, "{level}  {}: {}", self.what, self.text)
    }
}
