//! Attention of new tokens in the slots of a key-value cache: one in each of many, or whole prompts.

use crate::launch::{Argument, Element, Launch, Module};
use crate::{SCRATCH, SHARED_LIMIT, THREADS};

/// The widest head: columns that a lane adds up, times lanes.
const WIDEST: u32 = 128;
/// Warps of a block, each with its part of the context.
const WARPS: u32 = THREADS / 32;
/// Threads that make a key: a head is narrower than a row.
const APPENDING_THREADS: u32 = 128;

/// Sizes of heads and cache. The cache is `(2, slots, heads, capacity, width)`, keys before values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotShape {
    /// Type of the cache.
    pub element: Element,
    /// Rows of the step, one for each new token.
    pub rows: u32,
    /// Heads of a token.
    pub heads: u32,
    /// Values of a head.
    pub width: u32,
    /// Half the leading values of a head that are rotated; value `i` with value `turned + i`.
    pub turned: u32,
    /// Slots of the cache.
    pub slots: u32,
    /// Tokens that a slot can hold.
    pub capacity: u32,
}

/// Addresses of what says which tokens come; one of each for a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Fused projections `(rows, heads, 3, width)` in f32: query, key and value of head 0, then of head 1 …
    pub fused: u64,
    /// Cosines of the row's position, `(rows, turned)` in f32.
    pub cosines: u64,
    /// Its sines.
    pub sines: u64,
    /// The row's slot, as u32.
    pub slots: u64,
    /// The row's place in its slot, as u32; no two rows have the same in one slot. What lies before it is there already, or
    /// comes with other rows of the step.
    pub places: u64,
}

/// Everything between the fused projection and the output projection: norms of query and key, rotation, the cache, and
/// attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlotAttention {
    /// Sizes.
    pub shape: SlotShape,
    /// What comes.
    pub tokens: Tokens,
    /// Keeps the norms' divisors from zero.
    pub eps: f32,
}

impl SlotAttention {
    /// Writes keys and values of the new tokens into the cache; `weight` and `shift` `(width)` are those of the keys' norm.
    pub fn append(&self, weight: u64, shift: u64, cache: u64) -> Launch {
        let shape = self.shape;
        let mut arguments = self.operands(weight, shift, cache);
        arguments.push(Argument::F32(self.eps));
        arguments.extend([shape.width, shape.turned, shape.capacity, shape.slots].map(Argument::U32));
        Launch {
            module: Module::Slots,
            function: format!("slot_append_{}", shape.element.suffix()),
            grid: (shape.heads, shape.rows),
            threads: APPENDING_THREADS,
            shared_bytes: 4 * (SCRATCH + shape.width),
            arguments,
        }
    }

    /// What each row's query sees in its slot up to its own place, which the new tokens are in by now, into `out` `(rows, heads * width)` in f32.
    /// `weight` and `shift` are those of the queries' norm, `longest` is the longest context, the new token included.
    pub fn attend(&self, weight: u64, shift: u64, cache: u64, longest: u32, out: u64) -> Launch {
        let shape = self.shape;
        let mut arguments = self.operands(weight, shift, cache);
        arguments.push(Argument::Pointer(out));
        arguments.extend([self.eps, (f64::from(shape.width)).powf(-0.5) as f32].map(Argument::F32));
        arguments
            .extend([shape.width, shape.turned, shape.capacity, shape.slots, longest].map(Argument::U32));
        Launch {
            module: Module::Slots,
            function: format!("slot_attention_{}", shape.element.suffix()),
            grid: (shape.heads, shape.rows),
            threads: THREADS,
            shared_bytes: attention_bytes(shape.width, longest),
            arguments,
        }
    }

    fn operands(&self, weight: u64, shift: u64, cache: u64) -> Vec<Argument> {
        let Tokens { fused, cosines, sines, slots, places } = self.tokens;
        [fused, weight, shift, cosines, sines, slots, places, cache].map(Argument::Pointer).to_vec()
    }
}

impl SlotShape {
    /// Whether the kernels take heads of that width and contexts of that length.
    pub fn is_served(width: usize, longest: usize) -> bool {
        let (Ok(width), Ok(longest)) = (u32::try_from(width), u32::try_from(longest)) else { return false };
        width <= WIDEST && longest <= SHARED_LIMIT && attention_bytes(width, longest) <= SHARED_LIMIT
    }
}

fn attention_bytes(width: u32, longest: u32) -> u32 {
    4 * (SCRATCH + width + longest + WARPS * width)
}
