//! Spot notices: a cloud tells its machines, over their metadata service, that they are about to be taken away.
//!
//! Amazon gives two minutes, Google and Azure thirty seconds; the worker drains as after SIGTERM. A service that is
//! absent, slow or failing does no harm: it is asked again, and nothing depends on the answer.

use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use ureq::Agent;
use ureq::http::Request;
use url::Url;

/// Where every cloud keeps it.
pub const METADATA_URL: &str = "http://169.254.169.254";

const ASK_EVERY: Duration = Duration::from_secs(2);
/// On a cloud's machine the service answers within milliseconds; elsewhere the address leads nowhere.
const ANSWER: Duration = Duration::from_secs(2);
const TOKEN_SECONDS: &str = "21600";
/// Answers are a few hundred bytes.
const MOST_BYTES: u64 = 64 * 1024;

/// Whose notices are looked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SpotNotice {
    /// Nobody's.
    Off,
    /// Those of whichever cloud answers when the worker starts; nobody's if none does.
    #[default]
    Auto,
    /// This cloud's.
    Of(Cloud),
}

/// A cloud with preemptible machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloud {
    /// Amazon EC2, with session tokens (IMDSv2).
    Aws,
    /// Google Compute Engine.
    Gcp,
    /// Azure Virtual Machines.
    Azure,
}

impl FromStr for SpotNotice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "auto" => Ok(Self::Auto),
            "aws" => Ok(Self::Of(Cloud::Aws)),
            "gcp" => Ok(Self::Of(Cloud::Gcp)),
            "azure" => Ok(Self::Of(Cloud::Azure)),
            _ => Err(format!("`{text}` is no cloud: use auto, aws, gcp, azure or off")),
        }
    }
}

/// What to look for, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpotSettings {
    /// Whose notices.
    pub notice: SpotNotice,
    /// The metadata service.
    pub url: Url,
}

/// Looks for a notice until there is one, or until `shutdown`; a notice cancels `shutdown`.
pub async fn watch(settings: SpotSettings, shutdown: CancellationToken) {
    let SpotSettings { notice, url } = settings;
    let mut asker = match notice {
        SpotNotice::Off => return,
        SpotNotice::Of(cloud) => Asker::new(cloud, url),
        SpotNotice::Auto => {
            let found = tokio::task::spawn_blocking(move || Asker::find(&url)).await;
            let Some(asker) = found.ok().flatten() else { return };
            tracing::info!(cloud = ?asker.cloud, "watching for spot notices");
            asker
        }
    };
    let mut failing = false;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(ASK_EVERY) => {}
        }
        // The blocking client has a time-out of its own, so that no shutdown waits for it.
        let asked = tokio::task::spawn_blocking(move || (asker.ask(), asker)).await;
        let Ok((answer, same)) = asked else { return };
        asker = same;
        match answer {
            Ok(true) => {
                tracing::warn!(cloud = ?asker.cloud, "spot notice: this machine is about to be taken away, draining");
                return shutdown.cancel();
            }
            Ok(false) => failing = false,
            Err(error) => {
                if !failing {
                    tracing::warn!(error = format!("{error:#}"), "the metadata service fails, asking again");
                }
                failing = true;
            }
        }
    }
}

struct Asker {
    cloud: Cloud,
    url: Url,
    agent: Agent,
    /// Of Amazon's session.
    token: Option<String>,
}

impl Asker {
    fn new(cloud: Cloud, url: Url) -> Self {
        // Never through a proxy: the address means this machine.
        let config =
            Agent::config_builder().timeout_global(Some(ANSWER)).http_status_as_error(false).proxy(None);
        Self { cloud, url, agent: Agent::new_with_config(config.build()), token: None }
    }

    /// The cloud whose service answers at `url`.
    fn find(url: &Url) -> Option<Self> {
        [Cloud::Aws, Cloud::Gcp, Cloud::Azure]
            .into_iter()
            .map(|cloud| Self::new(cloud, url.clone()))
            .find_map(|mut asker| asker.ask().is_ok().then_some(asker))
    }

    /// Whether this machine is about to be taken away.
    fn ask(&mut self) -> anyhow::Result<bool> {
        match self.cloud {
            Cloud::Aws => self.ask_aws(),
            Cloud::Gcp => {
                let path = "/computeMetadata/v1/instance/preempted";
                let (status, body) = self.request("GET", path, ("Metadata-Flavor", "Google"))?;
                anyhow::ensure!(status == 200, "HTTP {status}");
                Ok(body.trim() == "TRUE")
            }
            Cloud::Azure => {
                let path = "/metadata/scheduledevents?api-version=2020-07-01";
                let (status, body) = self.request("GET", path, ("Metadata", "true"))?;
                anyhow::ensure!(status == 200, "HTTP {status}");
                let document: ScheduledEvents = serde_json::from_str(&body).context("scheduled events")?;
                Ok(document.events.iter().any(|event| event.event_type == "Preempt"))
            }
        }
    }

    fn ask_aws(&mut self) -> anyhow::Result<bool> {
        let token = if let Some(token) = &self.token {
            token.clone()
        } else {
            let ttl = ("X-aws-ec2-metadata-token-ttl-seconds", TOKEN_SECONDS);
            let (status, body) = self.request("PUT", "/latest/api/token", ttl)?;
            anyhow::ensure!(status == 200, "no session token: HTTP {status}");
            body
        };
        let path = "/latest/meta-data/spot/instance-action";
        let (status, _) = self.request("GET", path, ("X-aws-ec2-metadata-token", &token))?;
        // A token that has run out is replaced at the next look.
        self.token = (status != 401).then_some(token);
        match status {
            200 => Ok(true),
            404 => Ok(false),
            status => anyhow::bail!("HTTP {status}"),
        }
    }

    fn request(&self, method: &str, path: &str, header: (&str, &str)) -> anyhow::Result<(u16, String)> {
        let uri = self.url.join(path)?;
        let request =
            Request::builder().method(method).uri(uri.as_str()).header(header.0, header.1).body(())?;
        let mut answer = self.agent.run(request)?;
        let body = answer.body_mut().with_config().limit(MOST_BYTES).read_to_string()?;
        Ok((answer.status().as_u16(), body))
    }
}

#[derive(Deserialize)]
struct ScheduledEvents {
    #[serde(rename = "Events", default)]
    events: Vec<ScheduledEvent>,
}

#[derive(Deserialize)]
struct ScheduledEvent {
    #[serde(rename = "EventType")]
    event_type: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clouds_have_names() {
        assert_eq!("aws".parse(), Ok(SpotNotice::Of(Cloud::Aws)));
        assert_eq!("auto".parse(), Ok(SpotNotice::Auto));
        assert!("ibm".parse::<SpotNotice>().is_err());
    }

    #[tokio::test]
    async fn where_there_is_no_service_nothing_is_watched() {
        let url = Url::parse("http://127.0.0.1:1").expect("a URL");
        let shutdown = CancellationToken::new();
        let settings = SpotSettings { notice: SpotNotice::Auto, url };
        tokio::time::timeout(Duration::from_secs(10), watch(settings, shutdown.clone()))
            .await
            .expect("an end");
        assert!(!shutdown.is_cancelled());
    }
}
