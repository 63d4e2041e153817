//! `dispatcher retry`: dead letters go back to their lane.

mod tables;

use crate::config::FleetSettings;
use crate::config::args::RetryArgs;
use crate::config::shared_args::FleetArgs;
use crate::exit::Ended;
use crate::fleet::Fleet;
use crate::output::{self, plain};
use bytes::Bytes;
use captionfleet_proto::broker::{Delivery, Message, QueueName, Requeue, Topology};
use captionfleet_proto::codec;
use captionfleet_proto::job::{Job, JobKind, Lane, RunId};
use captionfleet_proto::storage::Stores;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tables::{Left, Tables};

/// Dead letters in hand: those that stay are held until all have been looked at.
const IN_HAND: u16 = 10_000;
/// A letter that was handed back so often is published anew instead: RabbitMQ 4 drops what came back twenty times from a queue
/// whose limit nobody set, and the queue of dead letters has none because it is declared on older brokers as well.
const HANDED_BACK: u64 = 10;
/// After so long without another one there is none.
const PATIENCE: Duration = Duration::from_secs(2);

/// One dead letter.
#[derive(Debug, Serialize)]
pub struct Letter {
    /// The job's id, or the message's if it is no job.
    pub id: String,
    /// The job's run.
    pub run: Option<RunId>,
    /// Why it was given up, in a word.
    pub code: String,
    /// The same for people.
    pub reason: String,
    /// When.
    pub failed_at: Option<String>,
    /// It was published again.
    pub retried: bool,
    /// All of its items have their rows meanwhile, those that were forgotten among them: it is gone.
    pub answered: bool,
}

/// Runs the command.
pub async fn run(args: RetryArgs) -> anyhow::Result<Ended> {
    let wanted = args.run.as_deref().map(super::verify::run_id).transpose()?;
    let fleet_args = FleetArgs {
        broker: Some(args.broker.clone()),
        queue_prefix: args.queue_prefix.clone(),
        s3_endpoint: args.s3_endpoint.clone(),
        ..FleetArgs::default()
    };
    let settings = FleetSettings::new(&fleet_args);
    let fleet = Fleet::remote(&settings, Arc::new(Stores::new(settings.storage.clone()))).await?;
    let letters = sort_out(&fleet, wanted.as_ref(), args.list).await;
    fleet.close().await?;
    let letters = letters?;
    if args.output.json {
        output::json(&letters)?;
        return Ok(Ended::Well);
    }
    for letter in &letters {
        let mark = match (letter.retried, letter.answered) {
            (true, _) => "published again",
            (_, true) => "answered",
            _ => "stays",
        };
        let when = letter.failed_at.as_deref().unwrap_or("?");
        output::line(plain(&format!("{mark}  {}  {when}  {}: {}", letter.id, letter.code, letter.reason)));
    }
    let all = output::counted(letters.len() as u64, "dead letter");
    let retried = letters.iter().filter(|letter| letter.retried).count();
    output::line(if args.list || letters.is_empty() {
        all
    } else {
        format!("{retried} of {all} published again")
    });
    Ok(Ended::Well)
}

/// Looks at every dead letter once, as far as those that stay are no more than are held at a time.
pub async fn sort_out(fleet: &Fleet, wanted: Option<&RunId>, only_list: bool) -> anyhow::Result<Vec<Letter>> {
    let Fleet { broker, topology, stores, .. } = fleet;
    let mut tables = Tables::new(stores.clone());
    let queue = topology.dead_queue();
    let mut waiting = broker.depth(&queue).await?.messages;
    let mut consumer = broker.consume(&queue, IN_HAND).await?;
    let (mut letters, mut kept): (Vec<Letter>, Vec<Delivery>) = (Vec::new(), Vec::new());
    while waiting > 0 {
        let Ok(next) = tokio::time::timeout(PATIENCE, consumer.next()).await else {
            break;
        };
        let Some(mut delivery) = next? else {
            break;
        };
        waiting -= 1;
        let job = codec::decode_job(&delivery.message.body).ok();
        let mut letter = letter(&delivery.message, job.as_ref());
        match job {
            Some(job) if !only_list && wanted.is_none_or(|run| *run == job.run) => {
                let (message_id, body) = match tables.left_of(&job).await {
                    Ok(Left::All) => (delivery.message.message_id.clone(), delivery.message.body.clone()),
                    Ok(Left::Some(job)) => (job.id.to_string(), codec::encode_job(&job)?),
                    Ok(Left::Nothing) => {
                        delivery.ack().await?;
                        letter.answered = true;
                        letters.push(letter);
                        continue;
                    }
                    Err(reason) => {
                        output::remark(format!("job {} stays: {reason}", job.id));
                        kept.push(delivery);
                        letters.push(letter);
                        continue;
                    }
                };
                let message = Message { message_id, body, ..revived(&delivery.message) };
                broker.publish(&lane(&job, topology), message).await?;
                delivery.ack().await?;
                letter.retried = true;
            }
            // Handed back only at the end: the broker would deliver it again at once.
            _ => {
                if !is_published_anew(&delivery) {
                    // Thousands are held, and each may be of megabytes.
                    delivery.message.body = Bytes::new();
                }
                kept.push(delivery);
            }
        }
        letters.push(letter);
    }
    if waiting > 0 && kept.len() >= usize::from(IN_HAND) {
        output::remark(format!(
            "{} were not looked at: {IN_HAND} that stay are all that are held at a time; name a run with --run, or publish these \
             again first",
            output::counted(waiting, "dead letter")
        ));
    }
    consumer.cancel().await?;
    for delivery in kept {
        if is_published_anew(&delivery) {
            broker.publish(&queue, delivery.message.clone()).await?;
            delivery.ack().await?;
        } else {
            delivery.nack(Requeue::Yes).await?;
        }
    }
    Ok(letters)
}

/// Whether a letter that stays is put into its queue as a new one.
fn is_published_anew(delivery: &Delivery) -> bool {
    delivery.delivery_count >= HANDED_BACK
}

fn lane(job: &Job, topology: &Topology) -> QueueName {
    topology.lane_queue(match job.kind {
        JobKind::Caption(_) => Lane::Bulk,
        JobKind::Search(_) | JobKind::Rerank(_) => Lane::Interactive,
    })
}

/// The message as it was before its first attempt, but as one that somebody has begun: its marker and rows may lie in the archive.
fn revived(dead: &Message) -> Message {
    Message {
        attempts: 0,
        turns: dead.turns.max(1),
        first_failed_at: None,
        passed_on_since: None,
        waiting_since: None,
        dead: None,
        ..dead.clone()
    }
}

fn letter(message: &Message, job: Option<&Job>) -> Letter {
    let dead = message.dead.as_ref();
    Letter {
        id: job.map_or_else(|| message.message_id.clone(), |job| job.id.to_string()),
        run: job.map(|job| job.run.clone()),
        code: dead.map(|dead| dead.code.clone()).unwrap_or_default(),
        reason: dead.map(|dead| dead.message.clone()).unwrap_or_default(),
        failed_at: dead.and_then(|dead| dead.failed_at).map(|time| time.to_string()),
        retried: false,
        answered: false,
    }
}
