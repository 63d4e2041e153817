//! What happens to the sums of a tile on their way out.
use std::mem::MaybeUninit;

use crate::{
    cells::{Sums, TILE},
    formulas::{Activation, activate},
};

/// Follows the sums of one row and tile. Slices are as long as the part of the row that is written, or empty.
#[derive(Clone, Copy)]
pub(crate) struct Finish<'a> {
    pub(crate) bias: &'a [f32],
    pub(crate) activation: Option<Activation>,
    pub(crate) added: &'a [f32],
}

impl Finish<'_> {
    /// Compiled into every set of kernels: narrower stores than the loads after them would make the processor wait.
    #[inline(always)]
    pub(crate) fn write(&self, sums: &Sums, out: &mut [MaybeUninit<f32>]) {
        let mut values = *sums;
        add(&mut values, self.bias);
        if let Some(activation) = self.activation {
            activate(activation, &mut values);
        }
        add(&mut values, self.added);
        // A whole tile is a store of known length.
        match <&mut [MaybeUninit<f32>; TILE]>::try_from(&mut *out) {
            Ok(out) => out.iter_mut().zip(values).for_each(|(out, value)| {
                out.write(value);
            }),
            Err(_) => {
                out.write_copy_of_slice(&values[..out.len()]);
            }
        }
    }
}

#[inline(always)]
fn add(sums: &mut Sums, values: &[f32]) {
    match <&Sums>::try_from(values) {
        Ok(values) => sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value),
        Err(_) => sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value),
    }
}
