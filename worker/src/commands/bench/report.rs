//! What was measured, as a table and as JSON.

use bytesize::ByteSize;
use captionfleet_model::WeightMemory;
use serde::Serialize;

use super::super::say;
use crate::engine::memory::MemoryBudget;

/// Everything about one bundle on one device.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) bundle: String,
    pub(super) device: &'static str,
    pub(super) threads: usize,
    /// Opening (every byte hashed), building the network, saying the golden tokens.
    pub(super) open_seconds: f64,
    pub(super) load_seconds: f64,
    pub(super) self_test_seconds: f64,
    pub(super) weights: WeightMemory,
    pub(super) roofline: Roofline,
    pub(super) steps: Vec<Step>,
    pub(super) items: Vec<Items>,
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
    /// Mean share of the decode batch in use while pictures waited for a slot.
    pub(super) decode_fill: f64,
    pub(super) memory: MemoryBudget,
}

impl Report {
    pub(super) fn tell(&self) {
        say(format_args!("bundle {} on {}, {} threads", &self.bundle[..12], self.device, self.threads));
        say(format_args!(
            "open {:.2} s, load {:.2} s, self-test {:.2} s",
            self.open_seconds, self.load_seconds, self.self_test_seconds
        ));
        say("\nweights");
        for (part, bytes) in self.weights.parts() {
            say(format_args!("  {part:<18} {:>10}", ByteSize(bytes).to_string()));
        }
        let best = self.roofline;
        say(format_args!(
            "\nat best: {:.0} GFLOP/s (vision type), {:.0} GFLOP/s (language type), {:.1} GB/s",
            best.vision_flops_per_second / 1e9,
            best.language_flops_per_second / 1e9,
            best.bytes_per_second / 1e9
        ));
        say("\nstep       rows    seconds     rows/s  of the best");
        for step in &self.steps {
            say(format_args!(
                "{:<9} {:5}  {:9.4}  {:9.2}  {:9.0} %",
                step.step,
                step.rows,
                step.seconds,
                step.rows_per_second,
                100.0 * step.roofline_share
            ));
        }
        if let Some(items) = self.items.last() {
            say(format_args!("\nmemory with {} slots\n{}", items.slots, items.memory));
        }
        say("\nslots  pictures   seconds  pictures/s  tokens/s  decode batch full");
        for items in &self.items {
            say(format_args!(
                "{:5}  {:8}  {:8.2}  {:10.3}  {:8.1}  {:9.0} %",
                items.slots,
                items.pictures,
                items.seconds,
                items.pictures_per_second,
                items.tokens_per_second,
                100.0 * items.decode_fill
            ));
        }
    }
}
