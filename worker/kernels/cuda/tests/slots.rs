//! Attention of new tokens in slots, run on a CPU, against f64.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

#[path = "host/mod.rs"]
mod host;

use captionfleet_cuda_kernels::{Element, SlotAttention, SlotShape, Tokens};
use host::{Values, rounding, run};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

const EPS: f32 = 1e-5;

/// A step of random sizes with random operands.
#[derive(Clone)]
struct Step {
    shape: SlotShape,
    fused: Vec<f32>,
    cosines: Vec<f32>,
    sines: Vec<f32>,
    slots: Vec<u32>,
    held: Vec<u32>,
    cache: Values,
    /// Weight and shift of the queries' norm, then of the keys'.
    norms: [Vec<f32>; 4],
}

impl Step {
    fn draw(
        random: &mut StdRng,
        element: Element,
        (heads, width, turned): (u32, u32, u32),
        capacity: u32,
    ) -> Self {
        let (rows, slots) = (random.random_range(1..4), random.random_range(3..6));
        let mut numbers = |count: u32, scale: f32| -> Vec<f32> {
            (0..count).map(|_| scale * (2.0 * random.random::<f32>() - 1.0)).collect()
        };
        let angles = numbers(rows * turned, 3.2);
        // Rows of very different scores: a few tokens take all the weight, or all have the same.
        let scale = [0.0, 1.0, 6.0][(capacity % 3) as usize];
        let fused = numbers(rows * heads * 3 * width, 2.0);
        let norms = [numbers(width, scale), numbers(width, 0.1), numbers(width, 1.5), numbers(width, 0.1)];
        let cache = Values::of(element, &numbers(2 * slots * heads * capacity * width, 2.0));
        let mut seats: Vec<u32> = (0..slots).collect();
        seats.shuffle(random);
        seats.truncate(rows as usize);
        let mut held: Vec<u32> = (0..rows).map(|_| random.random_range(0..capacity)).collect();
        held[0] = capacity - 1;
        // A prompt: each further row is the next token of the last one's slot.
        if rows > 1 && rows <= capacity && random.random_bool(0.5) {
            let seat = seats[0];
            seats.fill(seat);
            held = (capacity - rows..capacity).collect();
        }
        Self {
            shape: SlotShape { element, rows, heads, width, turned, slots, capacity },
            fused,
            cosines: angles.iter().map(|angle| angle.cos()).collect(),
            sines: angles.iter().map(|angle| angle.sin()).collect(),
            slots: seats,
            held,
            cache,
            norms,
        }
    }

    fn kernel(&self) -> SlotAttention {
        let tokens = Tokens {
            fused: self.fused.as_ptr() as u64,
            cosines: self.cosines.as_ptr() as u64,
            sines: self.sines.as_ptr() as u64,
            slots: self.slots.as_ptr() as u64,
            places: self.held.as_ptr() as u64,
        };
        SlotAttention { shape: self.shape, tokens, eps: EPS }
    }

    /// Appends and attends; the cache as it is afterwards, and the output.
    fn run(&self, backwards: bool) -> (Values, Values) {
        let (shape, kernel) = (self.shape, self.kernel());
        let mut cache = self.cache.clone();
        let mut out = Values::unwritten(Element::F32, (shape.rows * shape.heads * shape.width) as usize);
        let [query_weight, query_shift, key_weight, key_shift] =
            self.norms.each_ref().map(|norm| norm.as_ptr() as u64);
        run(&kernel.append(key_weight, key_shift, cache.address_mut()), backwards);
        let longest = self.held.iter().max().unwrap() + 1;
        run(
            &kernel.attend(query_weight, query_shift, cache.address(), longest, out.address_mut()),
            backwards,
        );
        (cache, out)
    }

    /// Part `part` of a head: query, key or value.
    fn part(&self, row: usize, head: usize, part: usize) -> Vec<f64> {
        let (heads, width) = (self.shape.heads as usize, self.shape.width as usize);
        let start = ((row * heads + head) * 3 + part) * width;
        self.fused[start..start + width].iter().copied().map(f64::from).collect()
    }

    /// A query or key, normed and turned.
    fn prepared(&self, row: usize, head: usize, part: usize) -> Vec<f64> {
        let xs = self.part(row, head, part);
        let (weight, shift) = (&self.norms[2 * part], &self.norms[2 * part + 1]);
        let mean = xs.iter().sum::<f64>() / xs.len() as f64;
        let variance = xs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / xs.len() as f64;
        let scale = 1.0 / (variance + f64::from(EPS)).sqrt();
        let mut ys: Vec<f64> = (xs.iter().zip(weight).zip(shift))
            .map(|((x, &weight), &shift)| (x - mean) * scale * f64::from(weight) + f64::from(shift))
            .collect();
        let turned = self.shape.turned as usize;
        for i in 0..turned {
            let (one, other) = (ys[i], ys[i + turned]);
            let angle = row * turned + i;
            let (cosine, sine) = (f64::from(self.cosines[angle]), f64::from(self.sines[angle]));
            ys[i] = one * cosine - other * sine;
            ys[i + turned] = other * cosine + one * sine;
        }
        ys
    }

    /// Where a token's key of a head begins in the cache; its value lies half the cache further.
    fn place(&self, slot: u32, head: usize, token: u32) -> usize {
        let shape = self.shape;
        (((slot * shape.heads + head as u32) * shape.capacity + token) * shape.width) as usize
    }
}

fn sizes() -> impl Iterator<Item = (Element, (u32, u32, u32), u32)> {
    // Heads, their width, half of what is rotated; tokens of a slot. The last ones are Phi-2's, the demo model's, and the limits.
    const HEADS: [(u32, u32, u32); 5] = [(1, 1, 0), (2, 5, 2), (3, 80, 16), (2, 33, 16), (1, 128, 64)];
    const CAPACITIES: [u32; 5] = [1, 2, 9, 40, 163];
    let elements = Element::ALL.into_iter().enumerate();
    elements.flat_map(|(turn, element)| {
        // Each type with each head, and two capacities with each of them.
        HEADS.into_iter().enumerate().flat_map(move |(number, heads)| {
            [turn, turn + 2].map(|step| (element, heads, CAPACITIES[(number + step) % CAPACITIES.len()]))
        })
    })
}

#[test]
fn keys_and_values_come_behind_what_a_slot_holds_and_nowhere_else() {
    let mut random = StdRng::seed_from_u64(4);
    for (element, heads, capacity) in sizes() {
        let step = Step::draw(&mut random, element, heads, capacity);
        let (cache, _) = step.run(false);
        let (before, after) = (step.cache.bits(), cache.bits());
        let (width, half) = (step.shape.width as usize, before.len() / 2);
        let values = cache.widened();
        let mut expected = before.clone();
        for (row, (&slot, &held)) in step.slots.iter().zip(&step.held).enumerate() {
            for head in 0..step.shape.heads as usize {
                let place = step.place(slot, head, held);
                for (i, key) in step.prepared(row, head, 1).into_iter().enumerate() {
                    let bound = (rounding(element) + 2e-6) * (key.abs() + 1e-3);
                    let found = f64::from(values[place + i]);
                    assert!((found - key).abs() <= bound + 2e-6, "{element:?}: {found} instead of {key}");
                    expected[place + i] = after[place + i];
                }
                let value: Vec<f32> = step.part(row, head, 2).into_iter().map(|x| x as f32).collect();
                expected[half + place..half + place + width]
                    .copy_from_slice(&Values::of(element, &value).bits());
            }
        }
        assert!(expected == after, "{element:?}, heads {heads:?}: something else was written");
    }
}

#[test]
fn attention_agrees_with_f64() {
    let mut random = StdRng::seed_from_u64(5);
    for (element, heads, capacity) in sizes() {
        let step = Step::draw(&mut random, element, heads, capacity);
        let (cache, out) = step.run(false);
        let (cache, out) = (cache.widened(), out.widened());
        let (width, half) = (step.shape.width as usize, cache.len() / 2);
        for (row, (&slot, &held)) in step.slots.iter().zip(&step.held).enumerate() {
            for head in 0..step.shape.heads as usize {
                let query = step.prepared(row, head, 0);
                let scores: Vec<f64> = (0..=held)
                    .map(|token| {
                        let key = &cache[step.place(slot, head, token)..][..width];
                        let dot: f64 = query.iter().zip(key).map(|(q, &k)| q * f64::from(k)).sum();
                        dot / (width as f64).sqrt()
                    })
                    .collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let shares: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
                let total: f64 = shares.iter().sum();
                for i in 0..width {
                    let value = |token: u32| f64::from(cache[half + step.place(slot, head, token) + i]);
                    let expected: f64 =
                        (0..=held).map(|token| shares[token as usize] * value(token)).sum::<f64>() / total;
                    let found = f64::from(out[(row * step.shape.heads as usize + head) * width + i]);
                    assert!(
                        (found - expected).abs() < 2e-5,
                        "{element:?} {heads:?} {held}: {found}, not {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn threads_wait_where_they_must() {
    let mut random = StdRng::seed_from_u64(6);
    for (element, heads, capacity) in sizes() {
        let step = Step::draw(&mut random, element, heads, capacity);
        let ((cache, out), (other_cache, other_out)) = (step.run(false), step.run(true));
        assert_eq!(cache.bits(), other_cache.bits(), "{element:?} {heads:?} {capacity}");
        assert_eq!(out.bits(), other_out.bits(), "{element:?} {heads:?} {capacity}");
    }
}

#[test]
fn a_row_is_the_same_alone_and_in_company() {
    let mut random = StdRng::seed_from_u64(7);
    for (element, heads, capacity) in sizes() {
        let step = Step::draw(&mut random, element, heads, capacity);
        let (cache, together) = step.run(false);
        let rows = step.shape.rows as usize;
        let of = |all: &[f32], row: usize| all[row * all.len() / rows..(row + 1) * all.len() / rows].to_vec();
        for row in 0..rows {
            let alone = Step {
                shape: SlotShape { rows: 1, ..step.shape },
                fused: of(&step.fused, row),
                cosines: of(&step.cosines, row),
                sines: of(&step.sines, row),
                slots: vec![step.slots[row]],
                held: vec![step.held[row]],
                // Earlier tokens of a prompt are there already.
                cache: cache.clone(),
                ..step.clone()
            };
            let (_, alone) = alone.run(false);
            assert_eq!(alone.widened(), of(&together.widened(), row), "{element:?} {heads:?} {capacity}");
        }
    }
}

#[test]
fn a_token_for_no_slot_writes_nothing() {
    let mut random = StdRng::seed_from_u64(8);
    let mut step = Step::draw(&mut random, Element::F16, (2, 5, 2), 8);
    let rows = step.shape.rows as usize;
    for (slots, held) in [(vec![99; rows], vec![0; rows]), (step.slots.clone(), vec![8; rows])] {
        (step.slots, step.held) = (slots, held);
        let (cache, _) = step.run(false);
        assert_eq!(cache.bits(), step.cache.bits());
    }
}

#[test]
fn heads_and_contexts_that_do_not_fit_are_not_served() {
    assert!(SlotShape::is_served(80, 2048));
    assert!(SlotShape::is_served(128, 11_000));
    assert!(!SlotShape::is_served(129, 10));
    assert!(!SlotShape::is_served(80, 12_000));
    assert!(!SlotShape::is_served(80, usize::MAX));
}
