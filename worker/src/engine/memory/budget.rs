//! From measured sizes to slots and batch sizes.

use std::fmt;

use bytesize::ByteSize;
use captionfleet_model::WeightMemory;
use serde::Serialize;

/// Part of the budget that is left alone, for what an allocator loses between blocks: one part in 64.
const RESERVE: u64 = 64;
/// Part of what the weights leave that is kept for pictures on their way to the device, where they take the same memory: one part
/// in 8,
const PICTURES: u64 = 8;
/// but enough for a large one with its file, if that is no more than half,
const LEAST_PICTURES: u64 = 128 << 20;
/// and no more than serves any device.
const MOST_PICTURES: u64 = 4 << 30;

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

impl Limit {
    /// The limit of a process that may use `asked` bytes of `free` ones, as far as either is known, and what sets it.
    pub fn of(asked: Option<u64>, free: Option<u64>) -> (Option<u64>, Self) {
        match (asked, free) {
            (Some(asked), Some(free)) if free < asked => (Some(free), Self::Free),
            (Some(asked), _) => (Some(asked), Self::Asked),
            (None, Some(free)) => (Some(free), Self::Free),
            (None, None) => (None, Self::Unknown),
        }
    }

    fn too_small(self, limit: u64) -> String {
        match self {
            Self::Asked => format!("a memory budget of {} is too small", ByteSize(limit)),
            Self::Free | Self::Unknown => format!("{} of free memory are too little", ByteSize(limit)),
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Asked => "raise --memory-budget",
            Self::Free | Self::Unknown => "free memory of the device, or take one that has more",
        }
    }
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
    /// Most in use while one picture is embedded in the middle of such a step, beyond the step's own.
    pub query: u64,
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

    /// The same of a batch of other size.
    pub(super) fn with_rows(self, rows: usize) -> Self {
        Self { rows, bytes: self.of(rows) }
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
    /// Whether pictures on their way to the device are in the same memory: on a CPU.
    pub pictures: bool,
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
    /// A picture that is embedded in the middle of either.
    pub query: u64,
    /// Kept for pictures on their way to the device: files, pixels, and what waits. `None` where they are in another memory, or
    /// nothing is capped.
    pub pictures: Option<u64>,
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
    "{}: weights and program take {}, one picture {}, {slots} slots {}; {}, lower --slots or --slot-tokens, or pack the \
     bundle with smaller weight types",
    limit_from.too_small(*limit), ByteSize(*held), ByteSize(*step), ByteSize(*slot_bytes), limit_from.remedy()
)]
pub struct BudgetError {
    limit: u64,
    limit_from: Limit,
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
        let (vision, prefill) = (measured.vision.rows, measured.prefill.rows);
        return Ok(measured.with(wish, vision, prefill, wish.slots, Kept::default()));
    };
    let reserve = limit / RESERVE;
    let room = limit.saturating_sub(reserve).saturating_sub(measured.held);
    let pictures = wish.pictures.then(|| for_pictures(room));
    let room = room - pictures.unwrap_or(0);
    let kept = Kept { reserve, pictures };
    let (mut vision, mut prefill) = (measured.vision.rows, measured.prefill.rows);
    loop {
        let step = measured.vision.of(vision).max(measured.prefill.of(prefill)) + measured.query;
        let all = room.checked_sub(step).map_or(0, |left| left / measured.slot.max(1)) as usize;
        // A slot for interactive requests is worth more than the last one for bulk, but not more than the only one.
        let slots = all.saturating_sub(wish.reserved_slots).min(wish.slots);
        let at_the_floor = vision == 1 && prefill == 1;
        if slots == wish.slots || (at_the_floor && slots > 0 && !wish.slots_are_asked) {
            return Ok(measured.with(wish, vision, prefill, slots, kept));
        }
        if at_the_floor {
            let slots = if wish.slots_are_asked { wish.slots } else { 1 } + wish.reserved_slots;
            return Err(BudgetError {
                limit,
                limit_from: measured.limit_from,
                held: measured.held,
                step: step + pictures.unwrap_or(0),
                slots,
                slot_bytes: slots as u64 * measured.slot,
            });
        }
        (vision, prefill) = (vision.div_ceil(2), prefill.div_ceil(2));
    }
}

/// What is kept for pictures on their way, of `room` bytes beside the weights.
fn for_pictures(room: u64) -> u64 {
    (room / PICTURES).max(LEAST_PICTURES.min(room / 2)).min(MOST_PICTURES)
}

/// What neither steps nor slots get.
#[derive(Default)]
struct Kept {
    reserve: u64,
    pictures: Option<u64>,
}

impl Measured {
    fn with(&self, wish: Wish, vision: usize, prefill: usize, slots: usize, kept: Kept) -> MemoryBudget {
        MemoryBudget {
            limit: self.limit,
            limit_from: self.limit_from,
            held: self.held,
            weights: self.weights.clone(),
            vision: StepMemory { rows: vision, bytes: self.vision.of(vision) },
            prefill: StepMemory { rows: prefill, bytes: self.prefill.of(prefill) },
            query: self.query,
            pictures: kept.pictures,
            slots,
            reserved_slots: wish.reserved_slots,
            slot: self.slot,
            max_len: wish.max_len,
            reserve: kept.reserve,
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
        let step = self.vision.bytes.max(self.prefill.bytes) + self.query;
        self.held + step + self.all_slots() + self.pictures.unwrap_or(0)
    }

    /// What of `wanted` bytes can be kept on the device besides: no more than is left of the limit.
    pub fn spare(&self, wanted: u64) -> u64 {
        let left = |limit: u64| limit.saturating_sub(self.reserve).saturating_sub(self.peak());
        self.limit.map_or(wanted, |limit| wanted.min(left(limit)))
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
        if self.query > 0 {
            line("picture between layers", self.query, "of a query that does not wait for the step's end")?;
        }
        if let Some(pictures) = self.pictures {
            line("pictures on their way", pictures, "kept for files and pixels")?;
        }
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
            query: 0,
            slot: 100 * MIB,
        }
    }

    fn wish(slots: usize, asked: bool) -> Wish {
        Wish { slots, slots_are_asked: asked, reserved_slots: 1, max_len: 320, pictures: false }
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
    fn the_remedy_fits_what_sets_the_limit() {
        assert_eq!(Limit::of(Some(8), Some(9)), (Some(8), Limit::Asked));
        assert_eq!(Limit::of(Some(8), Some(7)), (Some(7), Limit::Free));
        assert_eq!(Limit::of(Some(8), None), (Some(8), Limit::Asked));
        assert_eq!(Limit::of(None, Some(7)), (Some(7), Limit::Free));
        assert_eq!(Limit::of(None, None), (None, Limit::Unknown));
        let error = |limit_from| {
            let measured = Measured { limit_from, ..measured(4000 * MIB) };
            plan(&measured, wish(16, false)).unwrap_err().to_string()
        };
        assert!(error(Limit::Asked).contains("raise --memory-budget"), "{}", error(Limit::Asked));
        let free = error(Limit::Free);
        assert!(free.contains("of free memory") && !free.contains("--memory-budget"), "{free}");
    }

    #[test]
    fn a_budget_below_the_weights_is_refused() {
        let error = plan(&measured(4000 * MIB), wish(16, false)).unwrap_err().to_string();
        assert!(error.contains("3.9 GiB") && error.contains("4.9 GiB"), "{error}");
    }

    #[test]
    fn what_is_kept_besides_stays_within_the_limit() {
        let budget = plan(&measured(8000 * MIB), wish(16, false)).unwrap();
        assert_eq!((budget.peak(), budget.reserve), (7500 * MIB, 125 * MIB));
        assert_eq!((budget.spare(200 * MIB), budget.spare(1024 * MIB)), (200 * MIB, 375 * MIB));
        let free = Measured { limit: None, limit_from: Limit::Unknown, ..measured(0) };
        assert_eq!(plan(&free, wish(16, false)).unwrap().spare(7), 7);
    }

    #[test]
    fn on_a_cpu_room_is_kept_for_pictures() {
        let on_cpu = Wish { pictures: true, ..wish(40, false) };
        let budget = plan(&measured(8000 * MIB), on_cpu).unwrap();
        let room = (8000 - 125 - 5000) * MIB;
        assert_eq!(budget.pictures, Some(room / 8));
        assert!(budget.slots < plan(&measured(8000 * MIB), wish(40, false)).unwrap().slots);
        assert!(budget.peak() + budget.reserve <= 8000 * MIB);
        assert!(budget.to_string().contains("pictures on their way"), "{budget}");
        // A large picture fits even where little is left; where there is plenty, not all of it is kept.
        assert_eq!((for_pictures(500 * MIB), for_pictures(100 * MIB)), (128 * MIB, 50 * MIB));
        assert_eq!(for_pictures(1 << 40), 4 << 30);
    }

    #[test]
    fn a_query_in_the_middle_of_a_step_is_counted() {
        let with = Measured { query: 70 * MIB, ..measured(12_000 * MIB) };
        let (with, without) = (plan(&with, wish(16, false)), plan(&measured(12_000 * MIB), wish(16, false)));
        let (with, without) = (with.unwrap(), without.unwrap());
        assert_eq!(with.peak(), without.peak() + 70 * MIB);
        assert!(with.to_string().contains("between layers") && !without.to_string().contains("between"));
    }

    #[test]
    fn without_a_limit_nothing_is_capped() {
        let free = Measured { limit: None, limit_from: Limit::Unknown, ..measured(0) };
        let budget = plan(&free, Wish { pictures: true, ..wish(16, false) }).unwrap();
        assert_eq!((budget.slots, budget.pictures), (16, None));
    }

    proptest! {
        #[test]
        fn no_plan_exceeds_its_limit(
            limit in 1..20_000_u64, slots in 1..64_usize, asked: bool, slot in 1..500_u64, query in 0..90_u64, pictures: bool
        ) {
            let measured = Measured { slot: slot * MIB, query: query * MIB, ..measured(limit * MIB) };
            if let Ok(budget) = plan(&measured, Wish { pictures, ..wish(slots, asked) }) {
                prop_assert!(budget.peak() + budget.reserve <= limit * MIB);
                prop_assert!(budget.slots >= 1 && budget.slots <= slots);
                prop_assert!(!asked || budget.slots == slots);
            }
        }
    }
}
