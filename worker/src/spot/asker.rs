//! What each cloud's metadata service is asked, and what its answers mean.

use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;
use ureq::Agent;
use ureq::http::Request;
use url::Url;

use super::Cloud;

/// On a cloud's machine the service answers within milliseconds; elsewhere the address leads nowhere.
const ANSWER: Duration = Duration::from_secs(2);
/// Azure begins to look for scheduled events when it is asked for the first time, which may take two minutes.
const FIRST_EVENTS: Duration = Duration::from_secs(150);
const TOKEN_SECONDS: &str = "21600";
/// Answers are a few hundred bytes.
const MOST_BYTES: u64 = 64 * 1024;

const AZURE: (&str, &str) = ("Metadata", "true");

/// Asks one cloud's service.
pub(super) struct Asker {
    pub(super) cloud: Cloud,
    url: Url,
    agent: Agent,
    /// Of Amazon's session.
    token: Option<String>,
    /// What Azure calls this machine, once it had to be known.
    name: Option<String>,
    /// Whether Azure has told scheduled events before.
    tells_events: bool,
}

impl Asker {
    pub(super) fn new(cloud: Cloud, url: Url) -> Self {
        // Never through a proxy: the address means this machine.
        let config =
            Agent::config_builder().timeout_global(Some(ANSWER)).http_status_as_error(false).proxy(None);
        let agent = Agent::new_with_config(config.build());
        Self { cloud, url, agent, token: None, name: None, tells_events: false }
    }

    /// The cloud whose service answers at `url`.
    pub(super) fn find(url: &Url) -> Option<Self> {
        [Cloud::Aws, Cloud::Gcp, Cloud::Azure]
            .into_iter()
            .map(|cloud| Self::new(cloud, url.clone()))
            .find_map(|mut asker| asker.is_at_home().is_ok().then_some(asker))
    }

    /// Whether this machine is its cloud's.
    fn is_at_home(&mut self) -> anyhow::Result<()> {
        match self.cloud {
            Cloud::Aws | Cloud::Gcp => self.ask().map(drop),
            // Its scheduled events may be long in coming.
            Cloud::Azure => self.get("/metadata/instance?api-version=2021-02-01", AZURE, ANSWER).map(drop),
        }
    }

    /// Whether this machine is about to be taken away.
    pub(super) fn ask(&mut self) -> anyhow::Result<bool> {
        match self.cloud {
            Cloud::Aws => self.ask_aws(),
            Cloud::Gcp => {
                let path = "/computeMetadata/v1/instance/preempted";
                Ok(self.get(path, ("Metadata-Flavor", "Google"), ANSWER)?.trim() == "TRUE")
            }
            Cloud::Azure => self.ask_azure(),
        }
    }

    fn ask_aws(&mut self) -> anyhow::Result<bool> {
        let token = if let Some(token) = &self.token {
            token.clone()
        } else {
            let ttl = ("X-aws-ec2-metadata-token-ttl-seconds", TOKEN_SECONDS);
            let (status, body) = self.request("PUT", "/latest/api/token", ttl, ANSWER)?;
            anyhow::ensure!(status == 200, "no session token: HTTP {status}");
            body
        };
        let path = "/latest/meta-data/spot/instance-action";
        let (status, _) = self.request("GET", path, ("X-aws-ec2-metadata-token", &token), ANSWER)?;
        // A token that has run out is replaced at the next look.
        self.token = (status != 401).then_some(token);
        match status {
            200 => Ok(true),
            404 => Ok(false),
            status => anyhow::bail!("HTTP {status}"),
        }
    }

    /// The machines of a scale set are told each other's events, too.
    fn ask_azure(&mut self) -> anyhow::Result<bool> {
        let limit = if self.tells_events { ANSWER } else { FIRST_EVENTS };
        let body = self.get("/metadata/scheduledevents?api-version=2020-07-01", AZURE, limit)?;
        self.tells_events = true;
        let document: ScheduledEvents = serde_json::from_str(&body).context("scheduled events")?;
        let mut preempted = document.events.iter().filter(|event| event.event_type == "Preempt").peekable();
        if preempted.peek().is_none() {
            return Ok(false);
        }
        let name = self.azure_name()?;
        Ok(preempted.any(|event| event.is_about(&name)))
    }

    fn azure_name(&mut self) -> anyhow::Result<String> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let path = "/metadata/instance/compute/name?api-version=2021-02-01&format=text";
        let name = self.get(path, AZURE, ANSWER).context("this machine's name")?.trim().to_owned();
        self.name = Some(name.clone());
        Ok(name)
    }

    fn get(&self, path: &str, header: (&str, &str), limit: Duration) -> anyhow::Result<String> {
        let (status, body) = self.request("GET", path, header, limit)?;
        anyhow::ensure!(status == 200, "HTTP {status}");
        Ok(body)
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        header: (&str, &str),
        limit: Duration,
    ) -> anyhow::Result<(u16, String)> {
        let uri = self.url.join(path)?;
        let request =
            Request::builder().method(method).uri(uri.as_str()).header(header.0, header.1).body(())?;
        let request = self.agent.configure_request(request).timeout_global(Some(limit)).build();
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
    /// Names of machines.
    #[serde(rename = "Resources", default)]
    resources: Vec<String>,
}

impl ScheduledEvent {
    /// An event that names no machine is taken to be about this one.
    fn is_about(&self, name: &str) -> bool {
        self.resources.is_empty() || self.resources.iter().any(|resource| resource.eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_about_the_machines_that_it_names() {
        let about = |event: &str, name: &str| {
            serde_json::from_str::<ScheduledEvent>(event).expect("an event").is_about(name)
        };
        let named = r#"{"EventType": "Preempt", "Resources": ["fleet_3", "FLEET_7"]}"#;
        assert!(about(named, "fleet_7") && about(named, "fleet_3"));
        assert!(!about(named, "fleet_1") && !about(named, "fleet"));
        for unnamed in [r#"{"EventType": "Preempt"}"#, r#"{"EventType": "Preempt", "Resources": []}"#] {
            assert!(about(unnamed, "fleet_1"), "{unnamed}");
        }
    }
}
