//! The cases, by what breaks. The numbers are those of `tests/README.md`.

mod broker;
mod cluster;
mod disaster;
mod messages;
mod model;
mod processes;
mod quarantine;
mod spot;
mod storage;
mod turns;
mod versions;

use std::fmt::Display;
use std::time::Duration;

use futures::future::BoxFuture;

/// How much of a case is run.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Decides moments, victims and which requests are met.
    pub seed: u64,
    /// The long form.
    pub long: bool,
    /// How long the memory case works in the long form.
    pub memory: Duration,
}

impl Scale {
    /// The short form, as the tests run it.
    #[must_use]
    pub fn short() -> Self {
        Self { seed: 1, long: false, memory: Duration::ZERO }
    }

    fn pick<T>(&self, short: T, long: T) -> T {
        if self.long { long } else { short }
    }
}

/// What a case measured, in the order of its column.
#[derive(Debug, Default)]
pub struct Figures(Vec<(&'static str, String)>);

impl Figures {
    /// Adds a figure.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Display) -> Self {
        self.0.push((name, value.to_string()));
        self
    }
}

impl Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let figures: Vec<String> = self.0.iter().map(|(name, value)| format!("{name} {value}")).collect();
        f.write_str(&figures.join(", "))
    }
}

/// One way to break the fleet.
#[derive(Clone, Copy)]
pub struct Case {
    /// Its number.
    pub number: &'static str,
    /// Its name on the command line.
    pub name: &'static str,
    /// Whether it is too slow for the short form.
    pub long_only: bool,
    run: fn(Scale) -> BoxFuture<'static, anyhow::Result<Figures>>,
}

impl Case {
    /// Breaks the fleet and judges how it took it.
    ///
    /// # Errors
    /// Says what was not as it must be.
    pub async fn run(&self, scale: Scale) -> anyhow::Result<Figures> {
        (self.run)(scale).await
    }
}

macro_rules! case {
    ($number:literal, $name:literal, $run:path) => {
        Case { number: $number, name: $name, long_only: false, run: |scale| Box::pin($run(scale)) }
    };
    ($number:literal, $name:literal, $run:path, long) => {
        Case { number: $number, name: $name, long_only: true, run: |scale| Box::pin($run(scale)) }
    };
}

/// Every case.
#[must_use]
pub fn all() -> Vec<Case> {
    vec![
        case!("1", "kill-storm", processes::kill_storm),
        case!("2", "killed-before-ack", processes::killed_before_ack),
        case!("3", "poison", processes::poison),
        case!("3", "quarantine-outage", quarantine::outage),
        case!("4", "hanging-item", storage::hanging_item),
        case!("4", "hanging-job", turns::hanging_job),
        case!("4", "hanging-store", storage::hanging_store),
        case!("5", "sigterm", processes::sigterm),
        case!("5", "sigterm-cut-off", processes::sigterm_cut_off),
        case!("6", "sigstop", processes::sigstop),
        case!("8", "spot-notice", spot::notice),
        case!("9", "broker-restart", broker::restart),
        case!("10", "broker-cluster", cluster::failover, long),
        case!("11", "broker-network", broker::network),
        case!("12", "broker-alarm", broker::alarm),
        case!("13", "unroutable", broker::unroutable),
        case!("14", "broker-password", broker::password),
        case!("15", "publisher-killed", disaster::publisher_killed),
        case!("16", "hostile-messages", messages::hostile),
        case!("17", "hundredfold", messages::hundredfold),
        case!("18", "two-versions", versions::side_by_side),
        case!("18", "two-bundles", model::two_bundles),
        case!("19", "storage-errors", storage::errors),
        case!("19", "archive-away", storage::archive_away),
        case!("20", "storage-bodies", storage::bodies),
        case!("21", "idle-connection", storage::idle_connection),
        case!("22", "lost-reply", storage::lost_reply),
        case!("23", "disk-full", storage::disk_full),
        case!("24", "damaged-bundle", model::damaged_bundle),
        case!("27", "memory", model::memory, long),
        case!("28", "kill-everything-twice", disaster::kill_everything_twice),
    ]
}
