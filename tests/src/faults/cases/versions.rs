//! A fleet in the middle of an update.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use captionfleet_proto::broker::Message;
use captionfleet_proto::{codec, layout};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Figures, Scale};
use crate::faults::{Corpus, Expected, Scenario, wait_for};

const LIMIT: Duration = Duration::from_secs(180);
/// Jobs of each kind.
const JOBS: usize = 6;

/// Case 18: two workers of today, then beside them one of the next version, then that one alone. Jobs of today, of a later minor
/// version that says more, and of one that says what nobody here knows: every one is done once, those that only the new worker
/// knows by it, as they came, and none becomes a dead letter. Jobs of the next major version are kept as they came.
pub(super) async fn side_by_side(_: Scale) -> anyhow::Result<Figures> {
    let scenario = Arc::new(Scenario::new("versions", Corpus::shared().await?, 3 * JOBS).await?);
    let mut old = [scenario.worker("one", &[])?, scenario.worker("two", &[])?];
    let (mut unknown, mut foreign) = (BTreeSet::new(), BTreeSet::new());
    for (number, files) in scenario.files.chunks(1).enumerate() {
        let name = format!("job-{number}");
        let mut job: Value = serde_json::from_slice(&codec::encode_job(&scenario.job(&name, files).await?)?)?;
        match number % 3 {
            0 => {
                let mut other = job.clone();
                other["version"] = json!("2.0");
                let body = other.to_string();
                foreign.insert(body.clone());
                scenario
                    .broker
                    .publish(&scenario.lane(), Message::new(format!("foreign-{number}"), body))
                    .await?;
            }
            1 => {
                job["version"] = json!("1.9");
                job["priority"] = json!({"deep": [1, {"er": null}]});
                job["items"][0]["licence"] = json!("CC-BY");
            }
            _ => {
                job["version"] = json!("1.9");
                job["prompt"] = json!({"task": "haiku"});
            }
        }
        let body = job.to_string();
        if is_unknown(&job) {
            unknown.insert(body.clone());
        }
        scenario.broker.publish(&scenario.lane(), Message::new(name, body)).await?;
    }
    scenario.wait_for_parts(2 * JOBS).await?;
    wait_for("what is unknown to go round", LIMIT, || async {
        let mut passed_on = 0.0;
        for member in &old {
            passed_on +=
                member.metric("captionfleet_worker_retries_total{reason=\"message_unknown_version\"").await;
        }
        passed_on >= (2 * unknown.len()) as f64
    })
    .await?;
    let new = NewWorker::start(Arc::clone(&scenario)).await?;
    scenario.wait_for_parts(2 * JOBS + 1).await?;
    for member in &mut old {
        anyhow::ensure!(member.is_ready().await, "{}", member.child.output());
        member.child.signal("TERM");
        member.child.wait(LIMIT).await?;
    }
    scenario.wait_for_parts(3 * JOBS).await?;
    let kept = scenario.drain(&scenario.topology.dead_queue()).await?;
    for message in &kept {
        let reason = message.dead.as_ref().map(|reason| reason.code.as_str());
        anyhow::ensure!(reason == Some("message_unknown_version"), "{reason:?}");
    }
    let kept = kept.iter().map(|message| String::from_utf8_lossy(&message.body).into_owned()).collect();
    anyhow::ensure!(foreign == kept, "what is of another major version was changed, or is not kept");
    scenario.judge(&Expected::default()).await?;
    let came = new.unknown.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (count, came) = (came.len(), BTreeSet::from_iter(came));
    anyhow::ensure!(
        count == unknown.len() && came == unknown,
        "{count} of {} came, or were changed",
        unknown.len()
    );
    Ok(Figures::default()
        .with("jobs", 3 * JOBS)
        .with("for the new worker alone", count)
        .with("kept untouched", kept.len()))
}

/// A worker of the next version: knows what it alone knows, and all that the others know. Behind it works one of today.
struct NewWorker {
    /// Jobs that it alone knows, as they came to it.
    unknown: Arc<Mutex<Vec<String>>>,
    /// Ends with it.
    _task: JoinSet<anyhow::Result<()>>,
}

impl NewWorker {
    async fn start(fleet: Arc<Scenario>) -> anyhow::Result<Self> {
        let behind = Scenario::new("versions-new", Corpus::shared().await?, 1).await?;
        let worker = behind.worker("new", &[])?;
        let unknown = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&unknown);
        let work = async move {
            let _worker = worker;
            let mut consumer = fleet.broker.consume(&fleet.lane(), 1).await?;
            while let Some(delivery) = consumer.next().await? {
                let body = String::from_utf8(delivery.message.body.to_vec())?;
                let mut job: Value = serde_json::from_str(&body)?;
                if is_unknown(&job) {
                    seen.lock().unwrap_or_else(PoisonError::into_inner).push(body);
                    job["version"] = json!("1.0");
                    job["prompt"] = json!({"task": "caption"});
                }
                let job = codec::decode_job(job.to_string().as_bytes())?;
                behind.publish(&job).await?;
                let part = layout::part(&job.run, &job.id);
                wait_for("a part", LIMIT, || async {
                    fleet.parts().await.is_ok_and(|parts| parts.contains(&part))
                })
                .await?;
                delivery.ack().await?;
            }
            Ok(())
        };
        let mut task = JoinSet::new();
        task.spawn(work);
        Ok(Self { unknown, _task: task })
    }
}

/// Whether a worker of today does not know what the job says.
fn is_unknown(job: &Value) -> bool {
    job["prompt"]["task"] == "haiku"
}
