//! Messages that are no jobs, come too often, or were written by another version.

use std::collections::BTreeMap;
use std::time::Duration;

use captionfleet_proto::broker::Message;
use captionfleet_proto::codec;
use serde_json::{Value, json};

use super::{Figures, Scale};
use crate::faults::{Corpus, Expected, Scenario, wait_for};

const LIMIT: Duration = Duration::from_secs(120);

/// Case 16: what is no job becomes a dead letter with a reason, and the worker goes on.
pub(super) async fn hostile(_: Scale) -> anyhow::Result<Figures> {
    let scenario = Scenario::new("hostile", Corpus::shared().await?, 8).await?;
    let good = scenario.job("good", &scenario.files).await?;
    let with = |name: &str, value: Value| -> anyhow::Result<Vec<u8>> {
        let mut job: Value = serde_json::from_slice(&codec::encode_job(&good)?)?;
        job[name] = value;
        Ok(job.to_string().into_bytes())
    };
    let items: Vec<Value> = (0..1_000_000).map(|at| json!({"uri": format!("s3://b/{at}")})).collect();
    let deep = |open: &str, close: &str| {
        format!("{{\"version\":\"1.0\",\"x\":{}{}}}", open.repeat(100_000), close.repeat(100_000))
            .into_bytes()
    };
    // A folder that nobody has named as one to write to.
    let elsewhere = scenario.fleet.folder().join("elsewhere");
    let folder = captionfleet_proto::uri::ArchiveUri::from_folder(&elsewhere)?.to_string();
    let bodies = [
        ("archive_refused", with("archive", json!(folder))?),
        ("message_malformed", b"{ not json".to_vec()),
        ("message_malformed", Vec::new()),
        ("message_malformed", vec![0xff, 0xfe, 0x00]),
        ("message_malformed", with("id", json!(".."))?),
        ("message_malformed", with("items", json!("none"))?),
        ("message_malformed", deep("[", "]")),
        ("message_malformed", deep("{\"a\":", "}")),
        ("message_invalid", with("items", json!([]))?),
        ("message_unknown_version", with("version", json!("2.0"))?),
        ("message_unknown_version", with("version", json!(3))?),
        ("message_too_large", with("items", Value::Array(items))?),
        ("message_too_large", vec![b' '; (16 << 20) + 1]),
    ];
    let member = scenario.worker("worker", &[])?;
    let mut dead = BTreeMap::new();
    for (reason, body) in bodies {
        *dead.entry(reason.to_owned()).or_insert(0) += 1;
        scenario.broker.publish(&scenario.lane(), Message::new("hostile", body)).await?;
    }
    scenario.publish(&good).await?;
    scenario.wait_for_parts(1).await?;
    let expected = dead.values().sum::<usize>() as u64;
    wait_for("the dead letters", LIMIT, || async {
        scenario
            .broker
            .depth(&scenario.topology.dead_queue())
            .await
            .is_ok_and(|depth| depth.messages == expected)
    })
    .await?;
    anyhow::ensure!(member.is_ready().await, "{}", member.child.output());
    anyhow::ensure!(!elsewhere.exists(), "a message made {}", elsewhere.display());
    scenario.judge(&Expected { dead, ..Expected::default() }).await?;
    Ok(Figures::default().with("messages", expected).with("worker", format!("{} MiB", member.resident_mib())))
}

/// Case 17: the same message a hundred times over four workers: one part, and little is done twice.
pub(super) async fn hundredfold(_: Scale) -> anyhow::Result<Figures> {
    let scenario = Scenario::new("hundredfold", Corpus::shared().await?, 16).await?;
    let job = scenario.job("again", &scenario.files).await?;
    for _ in 0..100 {
        scenario.publish(&job).await?;
    }
    let mut members = Vec::new();
    for at in 0..4 {
        members.push(scenario.worker(&format!("worker-{at}"), &[])?);
    }
    wait_for("all hundred to be settled", LIMIT, || async {
        let mut settled = 0.0;
        for member in &members {
            settled += member.metric("captionfleet_worker_jobs_total{kind=\"caption\"").await;
        }
        settled >= 100.0
    })
    .await?;
    let mut worked = 0.0;
    for member in &members {
        worked += member.inferred().await;
    }
    let most = 4.0 * scenario.files.len() as f64;
    anyhow::ensure!(worked <= most, "{worked} items were captioned, {most} at most");
    anyhow::ensure!(scenario.parts().await?.len() == 1, "{:?}", scenario.parts().await?);
    scenario.judge(&Expected::default()).await?;
    Ok(Figures::default().with("items", scenario.files.len()).with("captioned", worked))
}
