//! What the broker's management API tells and AMQP does not: messages that are in a consumer's hands.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use url::Url;

use super::address::Address;
use crate::broker::{BrokerError, BrokerErrorKind, QueueName};

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// Of a queue a few fields are asked for; an overview of the whole broker has some kilobytes.
const MOST_BYTES: u64 = 256 * 1024;
/// What a policy or an operator's policy can say that lets messages fall out of a queue, or the queue itself go.
const LIMITS: [&str; 4] = ["message-ttl", "max-length", "max-length-bytes", "expires"];

/// RabbitMQ's management API, as far as it tells how many messages a queue holds, some five seconds ago, and what the broker's operator
/// has decided about it.
#[derive(Clone)]
pub struct Management(Arc<Api>);

struct Api {
    agent: Agent,
    overview: Url,
    queues: Url,
    authorization: String,
    user: String,
    shown: String,
}

/// A limit that a policy sets to one of our queues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyLimit {
    /// The queue.
    pub queue: QueueName,
    /// The policy, or the operator's policy, that says it.
    pub policy: String,
    /// What is limited, such as `message-ttl`, and to what, in RabbitMQ's units: milliseconds, messages or bytes.
    pub limit: String,
}

/// A broker as the API tells it.
#[derive(Deserialize)]
struct Overview {
    rabbitmq_version: String,
}

/// A queue's policies as the API tells them.
#[derive(Deserialize)]
struct Governed {
    #[serde(default)]
    policy: Option<String>,
    #[serde(default)]
    operator_policy: Option<String>,
    /// What both come to; an empty list where there is neither.
    #[serde(default)]
    effective_policy_definition: Value,
}

/// A queue as the API tells it. Of one that was just declared nothing is known yet.
#[derive(Deserialize)]
struct Queue {
    #[serde(default)]
    messages_ready: u64,
    #[serde(default)]
    messages_unacknowledged: u64,
}

impl Management {
    /// The API at `url` (`http://HOST:15672`) about the virtual host of the broker at `broker` (an AMQP address), as the user of that
    /// address unless `url` has one.
    ///
    /// # Errors
    /// [`BrokerErrorKind::InvalidUri`] if either is no address.
    pub fn new(url: &str, broker: &str) -> Result<Self, BrokerError> {
        let broker = Address::parse(broker, Duration::ZERO)?;
        // The text may hold a password.
        let invalid = || {
            BrokerError::new(BrokerErrorKind::InvalidUri, "use", "the address of the broker's management API")
                .with_remedy("write http://HOST:15672, or https://USER:PASSWORD@HOST:15671")
        };
        let mut base = Url::parse(url).map_err(|error| invalid().with_source(error))?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(invalid());
        }
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let (user, password) = match (base.username(), base.password()) {
            ("", None) => {
                let own = &broker.uri().authority.userinfo;
                (own.username.clone(), own.password.clone())
            }
            (user, password) => (decoded(user), decoded(password.unwrap_or_default())),
        };
        // Both can be set on any address with a host.
        base.set_username("").map_err(|()| invalid())?;
        base.set_password(None).map_err(|()| invalid())?;
        base.set_query(None);
        base.set_fragment(None);
        let shown = base.as_str().trim_end_matches('/').to_owned();
        let vhost = utf8_percent_encode(&broker.uri().vhost, NON_ALPHANUMERIC);
        let at = |path: String| Url::parse(&path).map_err(|error| invalid().with_source(error));
        let queues = at(format!("{shown}/api/queues/{vhost}/"))?;
        let overview = at(format!("{shown}/api/overview"))?;
        let authorization = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        let agent = agent(base.scheme() == "https");
        Ok(Self(Arc::new(Api { agent, overview, queues, authorization, user, shown })))
    }

    /// How many messages all these queues hold together, those in consumers' hands included.
    ///
    /// # Errors
    /// [`BrokerErrorKind::Unreachable`] if nobody answers in time, [`BrokerErrorKind::Refused`] if the user may not ask,
    /// [`BrokerErrorKind::NoSuchQueue`] if there is none of that name, [`BrokerErrorKind::Protocol`] for any other answer.
    pub async fn messages(&self, queues: Vec<QueueName>) -> Result<u64, BrokerError> {
        self.aside(move |api| queues.iter().map(|queue| api.messages(queue)).sum()).await
    }

    /// RabbitMQ's version, such as `3.13.7`.
    ///
    /// # Errors
    /// As [`Self::messages`].
    pub async fn version(&self) -> Result<String, BrokerError> {
        let told: Overview = self.aside(|api| api.get(api.overview.as_str(), || api.no_api())).await?;
        Ok(told.rabbitmq_version)
    }

    /// What policies say against these queues: our own declarations set no such limit where a message may not be lost.
    ///
    /// # Errors
    /// As [`Self::messages`].
    pub async fn limits(&self, queues: Vec<QueueName>) -> Result<Vec<PolicyLimit>, BrokerError> {
        self.aside(move |api| {
            let found = queues.into_iter().map(|queue| api.limits(queue)).collect::<Result<Vec<_>, _>>()?;
            Ok(found.into_iter().flatten().collect())
        })
        .await
    }

    /// The client blocks.
    async fn aside<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Api) -> Result<T, BrokerError> + Send + 'static,
    ) -> Result<T, BrokerError> {
        let api = Arc::clone(&self.0);
        let asking = tokio::task::spawn_blocking(move || ask(&api));
        let interrupted = |error| self.0.error(BrokerErrorKind::Protocol).with_source(error);
        asking.await.map_err(interrupted)?
    }
}

impl Api {
    fn messages(&self, queue: &QueueName) -> Result<u64, BrokerError> {
        let told: Queue = self.queue(queue, "messages_ready,messages_unacknowledged")?;
        Ok(told.messages_ready.saturating_add(told.messages_unacknowledged))
    }

    fn limits(&self, queue: QueueName) -> Result<Vec<PolicyLimit>, BrokerError> {
        let told: Governed = self.queue(&queue, "policy,operator_policy,effective_policy_definition")?;
        let policies: Vec<String> = [told.policy, told.operator_policy].into_iter().flatten().collect();
        let limits = LIMITS.iter().filter_map(|limit| {
            let value = told.effective_policy_definition.get(limit)?;
            let (queue, policy) = (queue.clone(), policies.join(" and "));
            Some(PolicyLimit { queue, policy, limit: format!("{limit} {value}") })
        });
        Ok(limits.collect())
    }

    fn queue<T: DeserializeOwned>(&self, queue: &QueueName, columns: &str) -> Result<T, BrokerError> {
        let name = utf8_percent_encode(queue.as_str(), NON_ALPHANUMERIC);
        self.get(&format!("{}{name}?columns={columns}", self.queues), || {
            BrokerError::new(BrokerErrorKind::NoSuchQueue, "look at", queue.as_str())
                .with_remedy(format!("{} does not know it", self.shown))
        })
    }

    fn get<T: DeserializeOwned>(
        &self,
        address: &str,
        missing: impl FnOnce() -> BrokerError,
    ) -> Result<T, BrokerError> {
        let asked = self.agent.get(address).header("Authorization", &self.authorization).call();
        let mut answer =
            asked.map_err(|error| self.error(BrokerErrorKind::Unreachable).with_source(error))?;
        match answer.status().as_u16() {
            200 => {}
            401 | 403 => {
                return Err(self.error(BrokerErrorKind::Refused).with_remedy(format!(
                    "let the user ask: rabbitmqctl set_user_tags {} management",
                    self.user
                )));
            }
            404 => return Err(missing()),
            other => {
                return Err(self
                    .error(BrokerErrorKind::Protocol)
                    .with_remedy(format!("it answered HTTP {other}")));
            }
        }
        let body = answer.body_mut().with_config().limit(MOST_BYTES).read_to_vec();
        let body = body.map_err(|error| self.error(BrokerErrorKind::Unreachable).with_source(error))?;
        serde_json::from_slice(&body)
            .map_err(|error| self.error(BrokerErrorKind::Protocol).with_source(error))
    }

    /// Another program answers there.
    fn no_api(&self) -> BrokerError {
        self.error(BrokerErrorKind::Protocol).with_remedy("it answered HTTP 404: is it RabbitMQ's?")
    }

    fn error(&self, kind: BrokerErrorKind) -> BrokerError {
        BrokerError::new(kind, "ask", format!("the broker's management API at {}", self.shown))
    }
}

impl fmt::Debug for Management {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Management").field(&self.0.shown).finish()
    }
}

/// Trusts whom the connections to the broker trust, too: the system's certificates. Like them it goes through no proxy.
fn agent(is_tls: bool) -> Agent {
    let config = Agent::config_builder().timeout_global(Some(ANSWER)).http_status_as_error(false).proxy(None);
    if !is_tls {
        return config.build().new_agent();
    }
    // Those that cannot be read are left out; without any the connection fails and says why.
    let found = rustls_native_certs::load_native_certs().certs;
    let roots: Vec<Certificate<'static>> =
        found.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect();
    let tls = TlsConfig::builder().root_certs(RootCerts::from(roots)).build();
    config.tls_config(tls).build().new_agent()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn made(url: &str, broker: &str) -> Arc<Api> {
        Management::new(url, broker).unwrap().0
    }

    #[test]
    fn user_and_virtual_host_are_those_of_the_broker() {
        let api = made("http://rabbit:15672", "amqp://me:s3cret%21@rabbit/my%2Fhost");
        assert_eq!(api.queues.as_str(), "http://rabbit:15672/api/queues/my%2Fhost/");
        assert_eq!(api.authorization, format!("Basic {}", STANDARD.encode("me:s3cret!")));
        let api = made("https://proxy/rabbit/", "amqp://rabbit");
        assert_eq!(api.queues.as_str(), "https://proxy/rabbit/api/queues/%2F/");
    }

    #[test]
    fn the_address_may_name_another_user() {
        let api = made("http://watch:a%40b@rabbit:15672", "amqp://me:s3cret@rabbit/v");
        assert_eq!(api.authorization, format!("Basic {}", STANDARD.encode("watch:a@b")));
        assert_eq!((api.user.as_str(), api.shown.as_str()), ("watch", "http://rabbit:15672"));
    }

    #[test]
    fn refusals_never_quote_the_password() {
        for url in ["ftp://u:hunter2@host", "u:hunter2@host", "http://u:hunter2@", "hunter2"] {
            let error = Management::new(url, "amqp://rabbit").unwrap_err();
            assert_eq!(error.kind(), BrokerErrorKind::InvalidUri, "{url}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
        let told = format!("{:?}", Management::new("http://u:hunter2@h", "amqp://v:hunter2@h").unwrap());
        assert!(!told.contains("hunter2"), "{told}");
    }
}
