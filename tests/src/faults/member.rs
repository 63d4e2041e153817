//! A process under observation.

use std::time::Duration;

use anyhow::Context;

use crate::fleet::http_get;
use crate::sandbox::Child;

/// A worker's or dispatcher's process and its admin port.
#[derive(Debug)]
pub struct Member {
    /// The process.
    pub child: Child,
    admin: u16,
}

impl Member {
    /// A process whose admin port is `admin`.
    #[must_use]
    pub fn new(child: Child, admin: u16) -> Self {
        Self { child, admin }
    }

    /// Whether the answer to a GET at the admin port is 200, and its body; `None` while nobody answers.
    async fn get(&self, path: &str) -> Option<(bool, String)> {
        let asked = tokio::time::timeout(Duration::from_secs(20), http_get(self.admin, path));
        let (status, body) = asked.await.ok().flatten()?;
        Some((status.contains(" 200 "), body))
    }

    /// Whether it says that it takes jobs.
    pub async fn is_ready(&self) -> bool {
        self.get("/readyz").await.is_some_and(|(ready, _)| ready)
    }

    /// What it says about its readiness.
    pub async fn readiness(&self) -> String {
        self.get("/readyz").await.map_or_else(String::new, |(_, body)| body)
    }

    /// Waits until it takes jobs.
    ///
    /// # Errors
    /// When it does not within a minute; the message holds its log.
    pub async fn wait_until_ready(&self) -> anyhow::Result<()> {
        let ready = wait_for("a worker to be ready", Duration::from_secs(60), || self.is_ready()).await;
        ready.with_context(|| self.child.output())
    }

    /// Sum of a metric's samples whose line begins with `name`; zero when there are none.
    pub async fn metric(&self, name: &str) -> f64 {
        let Some((_, text)) = self.get("/metrics").await else { return 0.0 };
        let value = |line: &str| line.rsplit_once(' ').and_then(|(_, value)| value.parse::<f64>().ok());
        text.lines().filter(|line| line.starts_with(name)).filter_map(value).sum()
    }

    /// Items that went through the vision tower here.
    pub async fn inferred(&self) -> f64 {
        self.metric("captionfleet_worker_items_total{code=\"\",status=\"ok\"}").await
    }

    /// Open file descriptors.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        descriptors(self.child.pid())
    }

    /// Resident memory in MiB.
    #[must_use]
    pub fn resident_mib(&self) -> u64 {
        resident_mib(self.child.pid())
    }
}

/// Open file descriptors of a process; zero when it is gone.
pub(super) fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Resident memory of a process in MiB; zero when it is gone.
#[must_use]
pub fn resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Polls until `holds`.
///
/// # Errors
/// Names what was waited for, after `limit`.
pub async fn wait_for<F: Future<Output = bool>>(
    what: &str,
    limit: Duration,
    mut holds: impl FnMut() -> F,
) -> anyhow::Result<()> {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(limit, wait).await.with_context(|| format!("waited {limit:?} in vain for {what}"))
}
