//! Every metric of a worker, declared once.
//!
//! Names follow `captionfleet_worker_<name>_<unit>[_total]`; every label takes its values from a small fixed set.

use std::sync::{Arc, Mutex};

use prometheus::core::Collector;
use prometheus::{
    Counter, Encoder, Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

use super::starvation::Starvation;

const PREFIX: &str = "captionfleet_worker_";

/// Upper bounds of stage times: from one decode step of a small model to a stalled download.
const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];

/// Upper bounds of jobs' times: from an embedded text to as long as a job may be held.
const JOB_SECONDS: [f64; 13] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1800.0];

/// Reasons for which a job is tried again, and given up in the end.
const PASSING: [&str; 8] = [
    "archive_refused",
    "archive_unavailable",
    "bundle_mismatch",
    "engine",
    "message_unknown_version",
    "no_video_decoder",
    "panic",
    "source_unavailable",
];

/// Reasons for which it is given up at once.
const LASTING: [&str; 6] = [
    "delivery_limit",
    "message_invalid",
    "message_malformed",
    "message_too_large",
    "message_too_many_items",
    "part_invalid",
];

/// The metrics of one worker, in a registry of their own.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Jobs that left this worker, by kind and by what became of them.
    pub(crate) jobs: IntCounterVec,
    /// Rows written, by status and error code.
    pub(crate) items: IntCounterVec,
    /// Frames of videos that were looked at, by what became of them.
    pub(crate) frames: IntCounterVec,
    /// Seconds spent per stage and call.
    pub(crate) stage_seconds: HistogramVec,
    /// Messages waiting, by queue.
    pub(crate) queue_depth: IntGaugeVec,
    /// Deliveries in hand.
    pub(crate) jobs_in_flight: IntGauge,
    /// Items being fetched, decoded or captioned.
    pub(crate) items_in_flight: IntGauge,
    /// Bulk pictures kept on their way to the device.
    pub(crate) look_ahead: IntGauge,
    /// Share of a batch's rows in use, by stage.
    pub(crate) batch_occupancy: HistogramVec,
    /// Tokens generated.
    pub(crate) tokens: IntCounter,
    /// Steps for which the device had no memory left, by stage.
    pub(crate) out_of_memory: IntCounterVec,
    /// Seconds in which the device computed.
    pub(crate) device_busy: Counter,
    /// Seconds in which it did not.
    pub(crate) device_idle: Counter,
    /// The part of the idle seconds in which items waited upstream.
    pub(crate) device_starved: Counter,
    /// Starved seconds over all seconds since the start.
    pub(crate) starvation_ratio: Gauge,
    /// Jobs sent to a delayed-retry queue, by reason.
    pub(crate) retries: IntCounterVec,
    /// Jobs given up, by reason.
    pub(crate) dead_letters: IntCounterVec,
    /// Jobs that ran item by item because a process died on them.
    pub(crate) quarantined: IntCounter,
    /// Panics that were contained.
    pub(crate) panics: IntCounter,
    /// Seconds from delivery to settlement, of a question to its answer, by kind.
    pub(crate) job_seconds: HistogramVec,
    pub(crate) starvation: Mutex<Starvation>,
}

impl Metrics {
    /// Declares them all.
    pub fn new() -> Arc<Self> {
        let registry = Registry::new();
        let make = Declare { registry: &registry };
        let metrics = Self {
            jobs: make.counters("jobs_total", "Jobs that left this worker.", &["kind", "outcome"]),
            items: make.counters("items_total", "Rows written.", &["status", "code"]),
            frames: make.counters("frames_total", "Frames of videos that were looked at.", &["fate"]),
            stage_seconds: make.histograms(
                HistogramOpts::new(
                    "stage_seconds",
                    "Time per stage and call; `queue` is the time of a request before its first step on the device.",
                )
                .buckets(SECONDS.to_vec()),
                "stage",
            ),
            queue_depth: make
                .add(IntGaugeVec::new(opts("queue_depth", "Messages waiting, as last seen."), &["queue"])),
            jobs_in_flight: make.add(IntGauge::with_opts(opts("jobs_in_flight", "Deliveries in hand."))),
            items_in_flight: make.add(IntGauge::with_opts(opts(
                "items_in_flight",
                "Items being fetched, decoded or captioned.",
            ))),
            look_ahead: make.add(IntGauge::with_opts(opts(
                "look_ahead_items",
                "Bulk pictures that are read and decoded ahead of the device, as measured times ask for.",
            ))),
            batch_occupancy: make.histograms(
                HistogramOpts::new("batch_occupancy_ratio", "Share of a batch's rows in use.")
                    .buckets((1..=10).map(|tenth| f64::from(tenth) / 10.0).collect()),
                "stage",
            ),
            tokens: make.add(IntCounter::with_opts(opts("tokens_total", "Tokens generated."))),
            out_of_memory: make.counters(
                "out_of_memory_total",
                "Steps for which the device had no memory left; they are tried again in halves.",
                &["stage"],
            ),
            device_busy: make.seconds("device_busy_seconds_total", "Time in which the device computed."),
            device_idle: make.seconds("device_idle_seconds_total", "Time in which the device did nothing."),
            device_starved: make.seconds(
                "device_starved_seconds_total",
                "Time in which the device did nothing although items waited upstream.",
            ),
            starvation_ratio: make.add(Gauge::with_opts(opts(
                "starvation_ratio",
                "Starved seconds over all seconds of the device since the start.",
            ))),
            retries: make.counters("retries_total", "Jobs sent to a delayed-retry queue.", &["reason"]),
            dead_letters: make.counters("dead_letters_total", "Jobs given up.", &["reason"]),
            quarantined: make.add(IntCounter::with_opts(opts(
                "quarantined_jobs_total",
                "Jobs run item by item because a process may have died on them.",
            ))),
            panics: make.add(IntCounter::with_opts(opts("panics_total", "Panics that were contained."))),
            job_seconds: make.histograms(
                HistogramOpts::new(
                    "job_seconds",
                    "Time from delivery to settlement; of a search or a re-ranking, to its answer.",
                )
                .buckets(JOB_SECONDS.to_vec()),
                "kind",
            ),
            starvation: Mutex::default(),
            registry: registry.clone(),
        };
        // A family without a child is not shown at all: rates over these start from zero, not from nothing.
        metrics.items.with_label_values(&["ok", ""]);
        for fate in ["kept", "dropped"] {
            metrics.frames.with_label_values(&[fate]);
        }
        for outcome in ["done", "already_done", "cancelled", "retried", "dead", "returned", "turn_over"] {
            metrics.jobs.with_label_values(&["caption", outcome]);
        }
        for outcome in ["done", "failed", "cancelled"] {
            metrics.jobs.with_label_values(&["search", outcome]);
            metrics.jobs.with_label_values(&["rerank", outcome]);
        }
        for kind in ["caption", "search", "rerank"] {
            metrics.job_seconds.with_label_values(&[kind]);
        }
        metrics.stage_seconds.with_label_values(&["queue"]);
        for stage in ["vision", "prefill", "decode"] {
            metrics.out_of_memory.with_label_values(&[stage]);
            metrics.stage_seconds.with_label_values(&[stage]);
            metrics.batch_occupancy.with_label_values(&[stage]);
        }
        for reason in PASSING {
            metrics.retries.with_label_values(&[reason]);
        }
        for reason in PASSING.iter().chain(&LASTING) {
            metrics.dead_letters.with_label_values(&[reason]);
        }
        let build = make.add(IntGaugeVec::new(opts("build_info", "Always 1."), &["version", "target"]));
        build.with_label_values(&[env!("CARGO_PKG_VERSION"), std::env::consts::ARCH]).set(1);
        #[cfg(target_os = "linux")]
        {
            // Absent where /proc is not mounted; the rest of the metrics is still worth having.
            let process = prometheus::process_collector::ProcessCollector::for_self();
            let _ = registry.register(Box::new(process));
        }
        Arc::new(metrics)
    }

    /// The registry, to be served by [`super::admin::serve`].
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

/// Everything in `registry`, in Prometheus' text format.
pub fn text_of(registry: &Registry) -> String {
    let mut text = Vec::new();
    TextEncoder::new()
        .encode(&registry.gather(), &mut text)
        .expect("encoding into memory fails only for families without metrics, which are not gathered");
    String::from_utf8_lossy(&text).into_owned()
}

struct Declare<'a> {
    registry: &'a Registry,
}

impl Declare<'_> {
    fn add<M: Collector + Clone + 'static>(&self, metric: prometheus::Result<M>) -> M {
        let metric = metric.expect("names and labels are literals of this file");
        self.registry.register(Box::new(metric.clone())).expect("every name is declared once");
        metric
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(opts(name, help), labels))
    }

    fn seconds(&self, name: &str, help: &str) -> Counter {
        self.add(Counter::with_opts(opts(name, help)))
    }

    fn histograms(&self, mut options: HistogramOpts, label: &str) -> HistogramVec {
        options.common_opts.name = named(&options.common_opts.name);
        self.add(HistogramVec::new(options, &[label]))
    }
}

fn named(name: &str) -> String {
    format!("{PREFIX}{name}")
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(named(name), help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_its_version_and_keeps_to_its_prefix() {
        let text = text_of(&Metrics::new().registry);
        assert!(text.contains(&format!("version=\"{}\"", env!("CARGO_PKG_VERSION"))), "{text}");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.starts_with(PREFIX) || line.starts_with("process_"), "{line}");
        }
    }

    #[test]
    fn what_has_not_happened_yet_is_shown_as_zero() {
        let text = text_of(&Metrics::new().registry);
        for series in [
            "items_total{code=\"\",status=\"ok\"} 0",
            "jobs_total{kind=\"caption\",outcome=\"done\"} 0",
            "retries_total{reason=\"archive_unavailable\"} 0",
            "dead_letters_total{reason=\"message_malformed\"} 0",
        ] {
            assert!(text.contains(series), "{series}\n{text}");
        }
    }

    #[test]
    fn two_workers_in_one_process_do_not_share_counters() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.tokens.inc_by(3);
        assert!(text_of(&one.registry).contains("captionfleet_worker_tokens_total 3"));
        assert!(text_of(&other.registry).contains("captionfleet_worker_tokens_total 0"));
    }
}
