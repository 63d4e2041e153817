//! Scaled dot-product attention of a decode step: one query a sequence, each over its own keys and values.
//!
//! Such a query uses every key and value once, so that they are read where they lie: packing them, as
//! [`Attention`](crate::Attention) does, would cost as much as the products. A sequence's bits do not depend on the others.
use rayon::prelude::*;

use crate::{
    Backend, Heads, ProductError,
    cells::TILE,
    elementwise::compiled_for_each_processor,
    formulas::LANES,
    split::threads,
    weighing::{weigh_in_f64, weigh_of},
};

/// What a sequence's query attends to.
#[derive(Clone, Copy, Debug)]
pub struct Past<'a> {
    /// `(heads, length, width)`.
    pub keys: Heads<'a>,
    /// `(heads, length, width)`.
    pub values: Heads<'a>,
    /// Rows of either.
    pub length: usize,
}

/// What attends to what.
#[derive(Clone, Copy, Debug)]
pub struct SingleQueries<'a> {
    /// Heads of all operands.
    pub heads: usize,
    /// Values of a row in a head.
    pub width: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// One for every row of the queries.
    pub pasts: &'a [Past<'a>],
}

impl SingleQueries<'_> {
    /// Softmax of `scale q kᵀ`, times `v`, of every sequence: `out` is `(sequences, heads * width)`. On the threads of the
    /// current rayon pool, some heads of a sequence each.
    ///
    /// # Errors
    /// Operands or an output that do not fit; `out` is untouched then.
    pub fn run(&self, backend: Backend, queries: Heads<'_>, out: &mut [f32]) -> Result<(), ProductError> {
        let Self { heads, width, scale, pasts } = *self;
        let expected = pasts.len().saturating_mul(heads.saturating_mul(width));
        if out.len() != expected {
            return Err(ProductError::Outputs { found: out.len(), expected });
        }
        if out.is_empty() {
            return Ok(());
        }
        queries.check(heads, pasts.len(), width)?;
        for past in pasts.iter().filter(|past| past.length > 0) {
            past.keys.check(heads, past.length, width)?;
            past.values.check(heads, past.length, width)?;
        }
        let longest = pasts.iter().map(|past| past.length).max().unwrap_or(0);
        let total: usize = pasts.iter().map(|past| past.length).sum();
        let one = |scores: &mut Vec<f32>, (index, out): (usize, &mut [f32])| {
            let (sequence, head) = (index / heads, index % heads);
            let past = &pasts[sequence];
            scores.resize(past.length, 0.0);
            let query = queries.row(head, sequence, width);
            attend(backend, query, scale, head, past, scores, out);
        };
        let scores = || Vec::with_capacity(longest);
        if threads(heads, width, total.div_ceil(TILE)) > 1 {
            out.par_chunks_mut(width).enumerate().for_each_init(scores, one);
        } else {
            let mut scores = scores();
            out.chunks_mut(width).enumerate().for_each(|task| one(&mut scores, task));
        }
        Ok(())
    }
}

compiled_for_each_processor! {
    /// One head of one sequence; `scores` is as long as the past.
    attend(query: &[f32], scale: f32, head: usize, past: &Past<'_>, scores: &mut [f32], out: &mut [f32]) = attend_of
}

#[inline(always)]
fn attend_of(query: &[f32], scale: f32, head: usize, past: &Past<'_>, scores: &mut [f32], out: &mut [f32]) {
    let width = query.len();
    for (row, score) in scores.iter_mut().enumerate() {
        *score = dot(query, past.keys.row(head, row, width)) * scale;
    }
    let mut are_numbers = true;
    weigh_of(scores, None, &mut are_numbers);
    if !are_numbers {
        weigh_in_f64(query, |row| past.keys.row(head, row, width), scale, None, scores);
    }
    // Without a past there is nothing to look at.
    out.fill(if scores.is_empty() { f32::NAN } else { 0.0 });
    for (row, &weight) in scores.iter().enumerate() {
        for (out, value) in out.iter_mut().zip(past.values.row(head, row, width)) {
            *out += weight * value;
        }
    }
}

/// In lanes that are then folded in halves, which takes few steps of a vector.
#[inline(always)]
fn dot(xs: &[f32], ys: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let ((xs, rest_x), (ys, rest_y)) = (xs.as_chunks::<LANES>(), ys.as_chunks::<LANES>());
    for (xs, ys) in xs.iter().zip(ys) {
        for (lane, (x, y)) in lanes.iter_mut().zip(xs.iter().zip(ys)) {
            *lane += x * y;
        }
    }
    for (lane, (x, y)) in lanes.iter_mut().zip(rest_x.iter().zip(rest_y)) {
        *lane += x * y;
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}
