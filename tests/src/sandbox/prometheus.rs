//! A Prometheus with the configuration and the alerts that `deploy/` ships.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tokio::process::Command;

use super::{Child, free_port};
use crate::fleet::http_get;

const START_LIMIT: Duration = Duration::from_secs(60);
/// What it scrapes: the jobs of the shipped configuration, each with the targets that stand in for its service discovery.
const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/prometheus");

/// A running server.
#[derive(Debug)]
pub struct Prometheus {
    port: u16,
    server: Child,
}

impl Prometheus {
    /// Starts it with its data below `root`. Each job scrapes the given port of this machine instead of what names tell it; all
    /// else is as it is shipped.
    ///
    /// # Errors
    /// When it is not installed, the configuration has another job, or it does not come up.
    pub async fn start(root: &Path, jobs: &[(&str, u16)]) -> anyhow::Result<Self> {
        std::fs::create_dir_all(root)?;
        let shipped = Path::new(SHIPPED);
        let config = std::fs::read_to_string(shipped.join("prometheus.yml")).context("prometheus.yml")?;
        std::fs::write(root.join("prometheus.yml"), with_targets(&config, jobs)?)?;
        std::fs::copy(shipped.join("alerts.yml"), root.join("alerts.yml")).context("alerts.yml")?;
        let port = free_port()?;
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", root.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", root.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let server = Child::spawn("prometheus", command, &root.join("prometheus.log"))
            .context("apt-get install prometheus")?;
        let mut prometheus = Self { port, server };
        let deadline = tokio::time::Instant::now() + START_LIMIT;
        while !http_get(port, "/-/ready").await.is_some_and(|(status, _)| status.contains(" 200 ")) {
            anyhow::ensure!(
                prometheus.server.is_running() && tokio::time::Instant::now() < deadline,
                "Prometheus did not start:\n{}",
                prometheus.server.output()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(prometheus)
    }

    /// The value of the one series that `expression` yields now; `None` if it yields none.
    ///
    /// # Errors
    /// When the server refuses it, or there are several.
    pub async fn query(&self, expression: &str) -> anyhow::Result<Option<f64>> {
        let encoded = expression.bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat();
        let answer = http_get(self.port, &format!("/api/v1/query?query={encoded}")).await;
        let (_, body) = answer.with_context(|| format!("Prometheus is gone:\n{}", self.server.output()))?;
        let answer: Value = serde_json::from_str(&body).with_context(|| format!("{expression}: {body}"))?;
        anyhow::ensure!(answer["status"] == "success", "{expression}: {answer}");
        let series = answer["data"]["result"].as_array().context("a query yields series")?;
        anyhow::ensure!(series.len() <= 1, "{expression} yields several series: {answer}");
        let Some(series) = series.first() else { return Ok(None) };
        Ok(Some(series["value"][1].as_str().context("a value is text")?.parse()?))
    }

    /// Waits until `expression` yields one value, and the value is right.
    ///
    /// # Errors
    /// When it does not within `limit`; the message tells the last value.
    pub async fn until(
        &self,
        expression: &str,
        limit: Duration,
        is_right: impl Fn(f64) -> bool,
    ) -> anyhow::Result<f64> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let value = self.query(expression).await?;
            if let Some(value) = value.filter(|value| is_right(*value)) {
                return Ok(value);
            }
            let late = tokio::time::Instant::now() > deadline;
            anyhow::ensure!(!late, "{expression} is {value:?} after {limit:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// The configuration with a target for each job in the place of its service discovery.
fn with_targets(config: &str, jobs: &[(&str, u16)]) -> anyhow::Result<String> {
    let mut made = Vec::new();
    let (mut target, mut inside, mut seen) = (None, false, 0);
    for line in config.lines() {
        let indented = line.len() - line.trim_start().len();
        if let Some(job) = line.trim_start().strip_prefix("- job_name: ") {
            let known = jobs.iter().find(|(name, _)| *name == job);
            target = Some(known.with_context(|| format!("{job} is scraped, too"))?.1);
        }
        if let (Some(port), "dns_sd_configs:") = (target, line.trim()) {
            made.push(format!("    static_configs: [{{targets: [\"127.0.0.1:{port}\"]}}]\n"));
            (inside, seen) = (true, seen + 1);
            continue;
        }
        inside &= indented > 4 || line.trim().is_empty();
        if !inside {
            made.push(format!("{line}\n"));
        }
    }
    anyhow::ensure!(
        seen == jobs.len(),
        "{seen} of {} jobs are in the shipped configuration:\n{config}",
        jobs.len()
    );
    Ok(made.concat())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::with_targets;

    #[test]
    fn only_the_discovery_is_replaced() {
        let shipped = "scrape_configs:\n  - job_name: a\n    dns_sd_configs:\n      - names: [a]\n        # Why.\n        port: 1\n\n  - job_name: b\n    dns_sd_configs:\n      - names: [b]\n    authorization: {credentials: c}\n";
        let made = with_targets(shipped, &[("a", 7), ("b", 8)]).unwrap();
        let wanted = "scrape_configs:\n  - job_name: a\n    static_configs: [{targets: [\"127.0.0.1:7\"]}]\n  - job_name: b\n    static_configs: [{targets: [\"127.0.0.1:8\"]}]\n    authorization: {credentials: c}\n";
        assert_eq!(made, wanted);
        assert!(with_targets(shipped, &[("a", 7)]).is_err());
        assert!(with_targets(shipped, &[("a", 7), ("b", 8), ("c", 9)]).is_err());
    }
}
