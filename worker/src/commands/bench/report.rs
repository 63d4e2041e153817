//! What was measured, as tables that grow while it is measured, or as one JSON document at the end.

use bytesize::ByteSize;
use captionfleet_model::WeightMemory;
use serde::Serialize;

use super::super::say;
use super::invariance::Invariance;
use super::printer::Printer;
use super::queries::{Queries, Waits};
use super::soak::Soak;
use crate::app::ReadyModel;
use crate::engine::memory::MemoryBudget;

/// Everything about one bundle on one device.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) bundle: String,
    pub(super) device: &'static str,
    /// Our own kernels in use on a GPU.
    pub(super) own_kernels: Vec<&'static str>,
    pub(super) threads: usize,
    /// Opening (every byte hashed), building the network, saying the golden tokens.
    pub(super) open_seconds: f64,
    pub(super) load_seconds: f64,
    pub(super) self_test_seconds: f64,
    pub(super) weights: WeightMemory,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) roofline: Option<Roofline>,
    pub(super) steps: Vec<Step>,
    pub(super) items: Vec<Items>,
    /// Numbers of slots that were asked for and found no room.
    pub(super) slots_that_do_not_fit: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) soak: Option<Soak>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) invariance: Option<Invariance>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) queries: Option<Queries>,
}

/// What the device can do at best, measured in the same run.
#[derive(Serialize, Clone, Copy)]
pub(super) struct Roofline {
    /// In one large product with weights of the vision tower's type.
    pub(super) vision_flops_per_second: f64,
    /// The same with the language model's type.
    pub(super) language_flops_per_second: f64,
    /// Read and written by a large copy.
    pub(super) bytes_per_second: f64,
}

/// One kind of step at one batch size.
#[derive(Serialize)]
pub(super) struct Step {
    pub(super) step: &'static str,
    pub(super) rows: usize,
    pub(super) seconds: f64,
    pub(super) rows_per_second: f64,
    /// Share of what the device can do at best: of its arithmetic for vision and prefill, of its memory's speed for
    /// decode steps that wait for the weights.
    pub(super) roofline_share: f64,
}

/// Pictures through the whole engine.
#[derive(Serialize)]
pub(super) struct Items {
    pub(super) slots: usize,
    pub(super) pictures: usize,
    pub(super) seconds: f64,
    pub(super) pictures_per_second: f64,
    pub(super) tokens_per_second: f64,
    /// Mean share of the decode batch in use while pictures waited for a slot; none waited otherwise.
    pub(super) decode_fill: Option<f64>,
    /// Bytes on the device at the highest point, as the operating system or the driver counts them.
    pub(super) most_in_use: u64,
    pub(super) memory: MemoryBudget,
}

impl Report {
    pub(super) fn new(model: &ReadyModel, open_seconds: f64) -> Self {
        let loaded = model.loaded();
        Self {
            bundle: loaded.manifest.digest.clone(),
            device: if loaded.model.device().is_cpu() { "cpu" } else { "cuda" },
            own_kernels: loaded.kernels.names(),
            threads: rayon::current_num_threads(),
            open_seconds,
            load_seconds: model.load.as_secs_f64(),
            self_test_seconds: model.self_test.as_secs_f64(),
            weights: loaded.memory.clone(),
            roofline: None,
            steps: Vec::new(),
            items: Vec::new(),
            slots_that_do_not_fit: Vec::new(),
            soak: None,
            invariance: None,
            queries: None,
        }
    }
}

impl Printer {
    pub(super) fn opening(self, report: &Report) {
        let kernels = match report.own_kernels.as_slice() {
            _ if report.device == "cpu" => String::new(),
            [] => ", candle's kernels alone".to_owned(),
            own => format!(", own kernels: {}", own.join(", ")),
        };
        self.line(format_args!(
            "bundle {} on {}{kernels}, {} threads\nopen {:.2} s, load {:.2} s, self-test {:.2} s\n\nweights",
            report.bundle.get(..12).unwrap_or(&report.bundle),
            report.device,
            report.threads,
            report.open_seconds,
            report.load_seconds,
            report.self_test_seconds
        ));
        for (part, bytes) in report.weights.parts() {
            self.line(format_args!("  {part:<18} {:>10}", ByteSize(bytes).to_string()));
        }
    }

    pub(super) fn roofline(self, best: Roofline) {
        self.line(format_args!(
            "\nat best: {:.0} GFLOP/s (vision type), {:.0} GFLOP/s (language type), {:.1} GB/s\n\nstep       rows    \
             seconds     rows/s  of the best",
            best.vision_flops_per_second / 1e9,
            best.language_flops_per_second / 1e9,
            best.bytes_per_second / 1e9
        ));
    }

    pub(super) fn step(self, step: &Step) {
        self.line(format_args!(
            "{:<9} {:5}  {:9.4}  {:9.2}  {:9.0} %",
            step.step,
            step.rows,
            step.seconds,
            step.rows_per_second,
            100.0 * step.roofline_share
        ));
    }

    pub(super) fn items_heading(self) {
        self.line("\nslots  pictures   seconds  pictures/s  tokens/s  decode batch full  most in use");
    }

    pub(super) fn items(self, items: &Items) {
        self.line(format_args!(
            "{:5}  {:8}  {:8.2}  {:10.3}  {:8.1}  {:>17}  {:>11}",
            items.slots,
            items.pictures,
            items.seconds,
            items.pictures_per_second,
            items.tokens_per_second,
            items.decode_fill.map_or_else(|| "-".to_owned(), |fill| format!("{:.0} %", 100.0 * fill)),
            ByteSize(items.most_in_use).to_string()
        ));
    }

    pub(super) fn invariance(self, count: &Invariance) {
        self.line(format_args!(
            "\n{} of {} captions and {} of {} embeddings are the same alone and in company ({:.3} %), {} of the captions with \
             the same probability to the last bit, {} of the embeddings but for rounding; {} are noise without end",
            count.same_captions,
            count.pictures,
            count.same_embeddings,
            count.embeddings,
            100.0 * count.share(),
            count.same_probabilities,
            count.near_embeddings,
            count.degenerate
        ));
    }

    pub(super) fn queries(self, found: &Queries) {
        self.line(format_args!(
            "\n{} queries of each kind; under load {:.1} pictures/s, a decode step takes {:.2} ms\n\nquery    idle p50, ms     \
             p99  loaded p50     p99  later by",
            found.queries, found.pictures_per_second, found.decode_step_ms
        ));
        for (kind, Waits { idle, loaded, later_by_steps }) in
            [("text", &found.text), ("picture", &found.picture)]
        {
            self.line(format_args!(
                "{kind:<8} {:12.2}  {:6.2}  {:10.2}  {:6.2}  {later_by_steps:.1} decode steps",
                idle.p50, idle.p99, loaded.p50, loaded.p99
            ));
        }
    }

    pub(super) fn end(self, report: &Report) -> anyhow::Result<()> {
        if self.is_json() {
            say(serde_json::to_string_pretty(report)?);
        } else if let Some(items) = report.items.last() {
            say(format_args!("\nmemory with {} slots\n{}", items.slots, items.memory));
        }
        Ok(())
    }
}
