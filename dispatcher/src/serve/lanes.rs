//! How many messages the lanes hold.
//!
//! Over AMQP a queue tells what waits in it, and not what workers have in hand: with everything prefetched it looks empty. The
//! broker's management API knows both, and is asked where `--broker-management` says where it is. Its figures are a few seconds
//! old, and it may be away: then what waits is all that is known.

use super::Service;
use captionfleet_proto::broker::lanes::runs_waiting;
use captionfleet_proto::broker::rabbitmq::Management;
use captionfleet_proto::broker::{Broker, BrokerError, Topology};
use captionfleet_proto::job::Lane;
use prometheus::{IntGauge, Registry};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often the API is asked; the broker brings its figures up to date as often.
const PAUSE: Duration = Duration::from_secs(5);
/// For so long what it told last counts while it does not answer.
const STALE: Duration = Duration::from_secs(30);

/// Messages in the lanes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Jobs of runs.
    pub runs: u64,
    /// Requests that somebody waits for.
    pub requests: u64,
}

/// Looks into the lanes.
#[derive(Debug)]
pub struct Lanes {
    management: Option<Management>,
    told: Mutex<Told>,
    answers: Option<IntGauge>,
}

/// What the API told.
#[derive(Debug, Default)]
struct Told {
    last: Option<(Instant, Held)>,
    trouble: Option<String>,
}

impl Lanes {
    /// Asks `management` if there is one, and tells in `registry` whether it answers.
    pub fn new(management: Option<Management>, registry: &Registry) -> prometheus::Result<Self> {
        let help = "Whether the broker's management API tells what workers have in hand.";
        let gauge = || IntGauge::new("captionfleet_broker_management_up", help);
        let answers = management.as_ref().map(|_| gauge()).transpose()?;
        if let Some(answers) = &answers {
            registry.register(Box::new(answers.clone()))?;
        }
        Ok(Self { management, told: Mutex::default(), answers })
    }

    /// What the lanes hold: what waits now, or with what is in hand or rests before another try, as far as that is known.
    pub(super) async fn held(&self, broker: &dyn Broker, topology: &Topology) -> Result<Held, BrokerError> {
        let interactive = topology.lane_queue(Lane::Interactive);
        let (runs, requests) = tokio::try_join!(runs_waiting(broker, topology), broker.depth(&interactive))?;
        let told = self.told().last.filter(|(when, _)| when.elapsed() < STALE);
        let told = told.map_or_else(Held::default, |(_, held)| held);
        Ok(Held { runs: told.runs.max(runs.messages), requests: told.requests.max(requests.messages) })
    }

    /// Why it is not known what workers have in hand, if it should be.
    pub fn trouble(&self) -> Option<String> {
        self.told().trouble.clone()
    }

    fn note(&self, answer: Result<Held, String>) {
        let mut told = self.told();
        let trouble = answer.as_ref().err().cloned();
        match (&told.trouble, &trouble) {
            (None, Some(reason)) => {
                tracing::warn!(
                    reason,
                    "jobs of others count only while they wait: what workers have in hand is not known"
                );
            }
            (Some(_), None) => tracing::warn!("what workers have in hand is known again"),
            _ => {}
        }
        if let Ok(held) = answer {
            told.last = Some((Instant::now(), held));
        }
        if let Some(answers) = &self.answers {
            answers.set(trouble.is_none().into());
        }
        told.trouble = trouble;
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the management API, if there is one, until the service ends.
pub async fn watch(service: &Service) {
    let lanes = service.waiting.lanes();
    let Some(management) = &lanes.management else { return };
    while !service.stop.is_cancelled() {
        let answer = ask(management, &service.ground.fleet.topology).await;
        lanes.note(answer.map_err(|error| crate::exit::line(&anyhow::Error::from(error))));
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = service.stop.cancelled() => {}
        }
    }
}

async fn ask(management: &Management, topology: &Topology) -> Result<Held, BrokerError> {
    let runs = Lane::BULK.iter().flat_map(|lane| topology.lane_and_retries(*lane)).collect();
    let requests = topology.lane_and_retries(Lane::Interactive);
    let (runs, requests) = tokio::try_join!(management.messages(runs), management.messages(requests))?;
    Ok(Held { runs, requests })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Held, Lanes, STALE};
    use captionfleet_proto::broker::embedded::EmbeddedBroker;
    use captionfleet_proto::broker::{Broker as _, Message, Topology};
    use captionfleet_proto::job::Lane;
    use prometheus::Registry;
    use std::time::{Duration, Instant};

    #[tokio::test]
    async fn what_was_told_counts_for_a_while() {
        let topology = Topology::default();
        let broker = EmbeddedBroker::new(topology.clone());
        broker.declare().await.unwrap();
        for lane in [Lane::Bulk2, Lane::Bulk2, Lane::Interactive] {
            broker.publish(&topology.lane_queue(lane), Message::new("m", "{}")).await.unwrap();
        }
        let lanes = Lanes::new(None, &Registry::new()).unwrap();
        let waiting = Held { runs: 2, requests: 1 };
        assert_eq!(lanes.held(&broker, &topology).await.unwrap(), waiting);
        lanes.note(Ok(Held { runs: 7, requests: 0 }));
        assert_eq!(lanes.held(&broker, &topology).await.unwrap(), Held { runs: 7, requests: 1 });
        lanes.note(Err("nobody answers".to_owned()));
        assert_eq!(lanes.trouble().as_deref(), Some("nobody answers"));
        assert_eq!(lanes.held(&broker, &topology).await.unwrap().runs, 7, "it may be back in a moment");
        let long_ago = Instant::now().checked_sub(STALE + Duration::from_secs(1)).unwrap();
        lanes.told().last = Some((long_ago, Held { runs: 7, requests: 0 }));
        assert_eq!(lanes.held(&broker, &topology).await.unwrap(), waiting);
        lanes.note(Ok(waiting));
        assert_eq!(lanes.trouble(), None);
    }
}
