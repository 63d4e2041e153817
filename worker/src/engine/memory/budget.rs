//! From measured sizes to slots and batch sizes.

use std::fmt;

use bytesize::ByteSize;
use captionfleet_model::WeightMemory;
use serde::Serialize;

/// Part of the budget that is left alone, for what an allocator loses between blocks: one part in 64.
const RESERVE: u64 = 64;

/// Where a budget comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// The operator's `--memory-budget`.
    Asked,
    /// What the device or the machine had free.
    Free,
    /// Unknown on this system: nothing is capped.
    Unknown,
}

/// What was measured before any slot was made. Bytes throughout.
#[derive(Debug, Clone)]
pub struct Measured {
    /// All that this process may use.
    pub limit: Option<u64>,
    /// Where the limit comes from.
    pub limit_from: Limit,
    /// In use with the weights loaded and nothing running.
    pub held: u64,
    /// The weights, by part.
    pub weights: WeightMemory,
    /// Most in use during one vision batch, beyond `held`.
    pub vision: StepMemory,
    /// Most in use during one prefill, beyond `held`.
    pub prefill: StepMemory,
    /// Keys and values of one slot.
    pub slot: u64,
}

/// A step's rows and what it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StepMemory {
    /// Rows of the batch.
    pub rows: usize,
    /// Bytes beyond what is always held.
    pub bytes: u64,
}

impl StepMemory {
    /// What a batch of other size takes: activations grow with the rows.
    fn of(self, rows: usize) -> u64 {
        self.bytes.div_ceil(self.rows.max(1) as u64) * rows as u64
    }
}

/// How much the engine would like, memory permitting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Slots; the reserved ones are on top.
    pub slots: usize,
    /// Whether the operator named that number: then batches give way first.
    pub slots_are_asked: bool,
    /// Slots on top that only interactive requests take.
    pub reserved_slots: usize,
    /// Tokens of one slot.
    pub max_len: usize,
}

/// What the engine gets, and why: printed at the start.
#[derive(Debug, Clone, Serialize)]
pub struct MemoryBudget {
    /// All that may be used; `None` where the system does not say.
    pub limit: Option<u64>,
    /// Where the limit comes from.
    pub limit_from: Limit,
    /// In use with the weights loaded.
    pub held: u64,
    /// The weights, by part.
    pub weights: WeightMemory,
    /// One vision batch.
    pub vision: StepMemory,
    /// One prefill.
    pub prefill: StepMemory,
    /// Sequences that decode together.
    pub slots: usize,
    /// Slots for interactive requests on top.
    pub reserved_slots: usize,
    /// Keys and values of one slot.
    pub slot: u64,
    /// Tokens of one slot.
    pub max_len: usize,
    /// Left alone.
    pub reserve: u64,
}

/// Nothing can run within the budget.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a memory budget of {} is too small: weights and program take {}, one picture {}, {slots} slots {}; raise \
     --memory-budget, lower --slots, or pack the bundle with smaller weight types",
    ByteSize(*limit), ByteSize(*held), ByteSize(*step), ByteSize(*slot_bytes)
)]
pub struct BudgetError {
    limit: u64,
    held: u64,
    step: u64,
    slots: usize,
    slot_bytes: u64,
}

/// Fits slots and batches into the limit. Batches are halved as long as that makes room for the slots wished for;
/// slots the operator did not name are then taken back, down to one.
///
/// # Errors
/// When not even one picture and one slot fit.
pub fn plan(measured: &Measured, wish: Wish) -> Result<MemoryBudget, BudgetError> {
    let Some(limit) = measured.limit else {
        return Ok(measured.with(wish, measured.vision.rows, measured.prefill.rows, wish.slots, 0));
    };
    let reserve = limit / RESERVE;
    let room = limit.saturating_sub(reserve).saturating_sub(measured.held);
    let (mut vision, mut prefill) = (measured.vision.rows, measured.prefill.rows);
    loop {
        let step = measured.vision.of(vision).max(measured.prefill.of(prefill));
        let all = room.checked_sub(step).map_or(0, |left| left / measured.slot.max(1)) as usize;
        // A slot for interactive requests is worth more than the last one for bulk, but not more than the only one.
        let slots = all.saturating_sub(wish.reserved_slots).min(wish.slots);
        let at_the_floor = vision == 1 && prefill == 1;
        if slots == wish.slots || (at_the_floor && slots > 0 && !wish.slots_are_asked) {
            return Ok(measured.with(wish, vision, prefill, slots, reserve));
        }
        if at_the_floor {
            let slots = if wish.slots_are_asked { wish.slots } else { 1 } + wish.reserved_slots;
            return Err(BudgetError {
                limit,
                held: measured.held,
                step,
                slots,
                slot_bytes: slots as u64 * measured.slot,
            });
        }
        (vision, prefill) = (vision.div_ceil(2), prefill.div_ceil(2));
    }
}

impl Measured {
    fn with(&self, wish: Wish, vision: usize, prefill: usize, slots: usize, reserve: u64) -> MemoryBudget {
        MemoryBudget {
            limit: self.limit,
            limit_from: self.limit_from,
            held: self.held,
            weights: self.weights.clone(),
            vision: StepMemory { rows: vision, bytes: self.vision.of(vision) },
            prefill: StepMemory { rows: prefill, bytes: self.prefill.of(prefill) },
            slots,
            reserved_slots: wish.reserved_slots,
            slot: self.slot,
            max_len: wish.max_len,
            reserve,
        }
    }
}

impl MemoryBudget {
    /// Keys and values of all slots.
    pub fn all_slots(&self) -> u64 {
        (self.slots + self.reserved_slots) as u64 * self.slot
    }

    /// The most that is in use at any time.
    pub fn peak(&self) -> u64 {
        self.held + self.vision.bytes.max(self.prefill.bytes) + self.all_slots()
    }
}

impl fmt::Display for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |what: &str, bytes: u64, why: &str| {
            writeln!(f, "  {what:<24} {:>10}  {why}", ByteSize(bytes).to_string())
        };
        line("weights and program", self.held, "measured, of which")?;
        for (part, bytes) in self.weights.parts() {
            line(&format!("  {part}"), bytes, "")?;
        }
        line(&format!("vision batch of {}", self.vision.rows), self.vision.bytes, "measured")?;
        line(
            &format!("prefill of {}", self.prefill.rows),
            self.prefill.bytes,
            "measured, not at the same time",
        )?;
        let slots = format!("{} + {} slots", self.slots, self.reserved_slots);
        line(
            &slots,
            self.all_slots(),
            &format!("{} tokens each, the last for interactive requests", self.max_len),
        )?;
        line("most in use", self.peak(), "")?;
        let Some(limit) = self.limit else {
            return write!(f, "  this system does not say how much memory is free: nothing is capped");
        };
        line("reserve", self.reserve, "")?;
        let why = match self.limit_from {
            Limit::Asked => "--memory-budget",
            Limit::Free | Limit::Unknown => "free when the worker started",
        };
        write!(f, "  {:<24} {:>10}  {why}", "budget", ByteSize(limit).to_string())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn measured(limit: u64) -> Measured {
        Measured {
            limit: Some(limit),
            limit_from: Limit::Asked,
            held: 5000 * MIB,
            weights: WeightMemory::default(),
            vision: StepMemory { rows: 8, bytes: 800 * MIB },
            prefill: StepMemory { rows: 8, bytes: 160 * MIB },
            slot: 100 * MIB,
        }
    }

    fn wish(slots: usize, asked: bool) -> Wish {
        Wish { slots, slots_are_asked: asked, reserved_slots: 1, max_len: 320 }
    }

    #[test]
    fn with_room_everything_is_as_wished() {
        let budget = plan(&measured(12_000 * MIB), wish(16, false)).unwrap();
        assert_eq!((budget.slots, budget.vision.rows, budget.prefill.rows), (16, 8, 8));
        assert_eq!(budget.peak(), (5000 + 800 + 1700) * MIB);
    }

    #[test]
    fn batches_give_way_before_slots_do() {
        let budget = plan(&measured(7000 * MIB), wish(16, false)).unwrap();
        assert_eq!((budget.slots, budget.vision.rows, budget.prefill.rows), (16, 1, 1));
        let budget = plan(&measured(6000 * MIB), wish(16, false)).unwrap();
        assert_eq!((budget.slots, budget.vision.rows), (7, 1));
    }

    #[test]
    fn slots_that_were_asked_for_are_not_taken_back() {
        let error = plan(&measured(6000 * MIB), wish(16, true)).unwrap_err().to_string();
        assert!(error.contains("--memory-budget") && error.contains("17 slots"), "{error}");
    }

    #[test]
    fn a_budget_below_the_weights_is_refused() {
        let error = plan(&measured(4000 * MIB), wish(16, false)).unwrap_err().to_string();
        assert!(error.contains("3.9 GiB") && error.contains("4.9 GiB"), "{error}");
    }

    #[test]
    fn without_a_limit_nothing_is_capped() {
        let free = Measured { limit: None, limit_from: Limit::Unknown, ..measured(0) };
        assert_eq!(plan(&free, wish(16, false)).unwrap().slots, 16);
    }

    proptest! {
        #[test]
        fn no_plan_exceeds_its_limit(limit in 1..20_000_u64, slots in 1..64_usize, asked: bool, slot in 1..500_u64) {
            let measured = Measured { slot: slot * MIB, ..measured(limit * MIB) };
            if let Ok(budget) = plan(&measured, wish(slots, asked)) {
                prop_assert!(budget.peak() + budget.reserve <= limit * MIB);
                prop_assert!(budget.slots >= 1 && budget.slots <= slots);
                prop_assert!(!asked || budget.slots == slots);
            }
        }
    }
}
