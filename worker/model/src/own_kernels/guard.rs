//! Each kernel once on small random numbers, before it is trusted with a network.
use candle_core::{D, DType, Device, Result, Shape, Tensor};
use captionfleet_kernels::Activation;

use super::{LayerNormParts, OwnKernels, RmsNormParts, SlotStep, SplitHeads, Unfinished, cuda};
use crate::{
    activation::softmax,
    attention::attend_in_slots,
    kv_cache::{LayerCache, Span},
    norm::LayerNorm,
    packed::Then,
    rotary::RotaryRows,
};

/// How far a value may be from the CPU's, relative to 1 and its size: more than bf16 rounds, less than any mistake.
const LIMIT: f32 = 0.015;
/// Rows and their width, which is more than a block has threads, and not round.
const ROWS: (usize, usize) = (3, 300);
/// Heads of the step, their width, and the pairs of it that are turned.
const HEADS: (usize, usize, usize) = (3, 80, 16);
/// Slots of its cache, and tokens that each can hold.
const SLOTS: (usize, usize) = (4, 40);
const TYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
const EPS: f64 = 1e-5;

impl OwnKernels {
    /// Those that agree on this device with what a CPU makes of the same numbers. Each one that does not, or that cannot
    /// be run, is named in a warning and not used.
    pub fn checked(device: &Device) -> Self {
        if !device.is_cuda() {
            return Self::NONE;
        }
        Self {
            products: agrees("products", products(device, cuda::finish)),
            norms: agrees("norms", layer_norm(device, cuda::layer_norm))
                && agrees("norms", rms_norm(device, cuda::rms_norm)),
            heads: agrees("heads", heads(device, cuda::split_heads, cuda::join_heads))
                && agrees("heads", softmax_in_place(device, cuda::softmax)),
            choice: agrees("choice", likeliest(device, cuda::likeliest)),
            attention: agrees("attention", attention(device, cuda::in_slots)),
        }
    }
}

/// Whether a kernel ran and came close to what was expected.
fn agrees(kernel: &str, distance: Result<f32>) -> bool {
    let problem = match distance {
        Ok(distance) if distance <= LIMIT => return true,
        // Also where it is no number.
        Ok(distance) => format!("its values are up to {distance} away from the CPU's"),
        Err(error) => format!("it cannot be run: {error}"),
    };
    tracing::warn!(
        kernel,
        problem,
        "a kernel of ours is not used on this GPU, candle's are; please report it"
    );
    false
}

/// The largest distance of two tensors' values, relative to 1 and the expected value.
fn distance(found: &Tensor, expected: &Tensor) -> Result<f32> {
    let values = |tensor: &Tensor| {
        tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()
    };
    if found.dims() != expected.dims() {
        return Ok(f32::INFINITY);
    }
    let each = values(found)?.into_iter().zip(values(expected)?);
    let relative = each.map(|(found, expected)| (found - expected).abs() / (1.0 + expected.abs()));
    Ok(relative.fold(0.0, larger))
}

/// The larger of two distances; one that is no number counts as larger than any.
fn larger(one: f32, other: f32) -> f32 {
    if one <= other || other.is_nan() { other } else { one }
}

/// Random values on the CPU, rounded to a type.
fn drawn(shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu)?.to_dtype(dtype)
}

/// The same operands where the kernels run and on the CPU.
struct Operands<'a> {
    product: Unfinished<'a>,
    residual_there: &'a Tensor,
    /// Product and bias.
    sum: Tensor,
    residual: &'a Tensor,
}

/// The largest of the distances that `compare` finds for a product of each type.
fn of_every_type(device: &Device, compare: impl Fn(Operands<'_>) -> Result<f32>) -> Result<f32> {
    let (bias, residual) = (drawn(ROWS.1, DType::F32)?, drawn(ROWS, DType::F32)?);
    let (bias_there, residual_there) = (bias.to_device(device)?, residual.to_device(device)?);
    let mut most = 0f32;
    for dtype in TYPES {
        let product = drawn(ROWS, dtype)?;
        let there = product.to_device(device)?;
        let operands = Operands {
            product: Unfinished { product: &there, bias: Some(&bias_there) },
            residual_there: &residual_there,
            sum: product.to_dtype(DType::F32)?.broadcast_add(&bias)?,
            residual: &residual,
        };
        most = larger(most, compare(operands)?);
    }
    Ok(most)
}

fn products(device: &Device, own: impl Fn(Unfinished<'_>, &Then<'_>) -> Result<Tensor>) -> Result<f32> {
    of_every_type(device, |Operands { product, residual_there, sum, residual }| {
        let mut most = 0f32;
        for (then, expected) in [
            (Then::Nothing, sum.clone()),
            (Then::Activate(Activation::GeluErf), sum.gelu_erf()?),
            (Then::Activate(Activation::GeluTanh), sum.gelu()?),
            (Then::Add(residual_there), (residual + &sum)?),
        ] {
            most = larger(most, distance(&own(product, &then)?, &expected)?);
        }
        Ok(most)
    })
}

fn layer_norm(
    device: &Device,
    own: impl Fn(Unfinished<'_>, Option<&Tensor>, LayerNormParts<'_>, DType) -> Result<(Tensor, Tensor)>,
) -> Result<f32> {
    let (weight, shift) = (drawn(ROWS.1, DType::F32)?, drawn(ROWS.1, DType::F32)?);
    let (weight_there, shift_there) = (weight.to_device(device)?, shift.to_device(device)?);
    of_every_type(device, |Operands { product, residual_there, sum, residual }| {
        let sum = (sum + residual)?;
        let centred = sum.broadcast_sub(&sum.mean_keepdim(D::Minus1)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + EPS)?.sqrt()?;
        let normed = centred.broadcast_div(&deviation)?.broadcast_mul(&weight)?.broadcast_add(&shift)?;
        let parts = (&weight_there, &shift_there, EPS);
        let mut most = 0f32;
        for output in TYPES {
            let (own_sum, own_normed) = own(product, Some(residual_there), parts, output)?;
            most = larger(most, larger(distance(&own_sum, &sum)?, distance(&own_normed, &normed)?));
        }
        Ok(most)
    })
}

fn rms_norm(
    device: &Device,
    own: impl Fn(Unfinished<'_>, Option<&Tensor>, RmsNormParts<'_>) -> Result<Tensor>,
) -> Result<f32> {
    let weight = drawn(ROWS.1, DType::F32)?;
    let weight_there = weight.to_device(device)?;
    of_every_type(device, |Operands { product, residual_there, sum, residual }| {
        let root = (sum.sqr()?.mean_keepdim(D::Minus1)? + EPS)?.sqrt()?;
        let expected = (sum.broadcast_div(&root)?.broadcast_mul(&weight)? + residual)?;
        distance(&own(product, Some(residual_there), (&weight_there, EPS))?, &expected)
    })
}

/// Heads split, and joined again.
fn heads(
    device: &Device,
    split: impl Fn(Unfinished<'_>, (usize, usize), f64) -> Result<SplitHeads>,
    join: impl Fn(&Tensor, usize) -> Result<Tensor>,
) -> Result<f32> {
    let ((heads, width, _), scale) = (HEADS, 0.25);
    let (sequences, tokens) = (2, 5);
    let bias = drawn(3 * heads * width, DType::F32)?;
    let bias_there = bias.to_device(device)?;
    let mut most = 0f32;
    for dtype in TYPES {
        let product = drawn((sequences * tokens, 3 * heads * width), dtype)?;
        let there = product.to_device(device)?;
        let found = split(Unfinished { product: &there, bias: Some(&bias_there) }, (tokens, heads), scale)?;
        let sum = product.to_dtype(DType::F32)?.broadcast_add(&bias)?;
        let parts = sum.reshape((sequences, tokens, 3, heads, width))?.permute((2, 0, 3, 1, 4))?;
        for (part, found) in found.parts.iter().enumerate() {
            let expected = (parts.get(part)? * if part == 0 { scale } else { 1.0 })?;
            let padding = found.dim(2)? - tokens;
            most = larger(most, distance(&found.narrow(2, 0, tokens)?, &expected)?);
            let zeros = Tensor::zeros((sequences, heads, padding, width), DType::F32, &Device::Cpu)?;
            most = larger(most, distance(&found.narrow(2, tokens, padding)?, &zeros)?);
        }
        let values = parts.get(2)?.transpose(1, 2)?.reshape((sequences, tokens, heads * width))?;
        most = larger(most, distance(&join(&found.parts[2], tokens)?, &values)?);
    }
    Ok(most)
}

fn softmax_in_place(device: &Device, own: impl Fn(&Tensor, usize) -> Result<()>) -> Result<f32> {
    let valid = ROWS.1 - 7;
    let mut most = 0f32;
    for dtype in TYPES {
        // What lies behind them is larger than any, and not looked at.
        let behind = Tensor::full(20f32, (ROWS.0, ROWS.1 - valid), &Device::Cpu)?;
        let scores = (drawn((ROWS.0, valid), DType::F32)? * 4.0)?;
        let scores = Tensor::cat(&[&scores, &behind], 1)?.to_dtype(dtype)?;
        let there = scores.force_contiguous()?.to_device(device)?;
        own(&there, valid)?;
        let expected = softmax(&scores.narrow(1, 0, valid)?.to_dtype(DType::F32)?)?;
        most = larger(most, distance(&there, &expected.pad_with_zeros(1, 0, ROWS.1 - valid)?)?);
    }
    Ok(most)
}

fn likeliest(device: &Device, own: impl Fn(&Tensor, usize) -> Result<Tensor>) -> Result<f32> {
    let logits = drawn(ROWS, DType::F32)?;
    // What lies behind the tokens is not looked at.
    let valid = ROWS.1 - 1;
    let beyond = Tensor::full(100f32, (ROWS.0, 1), &Device::Cpu)?;
    let tokens = logits.narrow(1, 0, valid)?.contiguous()?;
    let logits = Tensor::cat(&[&tokens, &beyond], 1)?;
    let largest = tokens.argmax_keepdim(1)?;
    let share = softmax(&tokens)?.gather(&largest, 1)?.log()?;
    let expected = Tensor::cat(&[largest.to_dtype(DType::F32)?, share], 1)?;
    distance(&own(&logits.to_device(device)?, valid)?, &expected)
}

/// Norms of queries and of keys.
type Norms<'a> = (LayerNormParts<'a>, LayerNormParts<'a>);

fn attention(
    device: &Device,
    own: impl Fn(&SlotStep, &Tensor, Norms<'_>, &RotaryRows, &LayerCache) -> Result<Tensor>,
) -> Result<f32> {
    let ((heads, width, pairs), (slots, capacity)) = (HEADS, SLOTS);
    // A full slot, an empty one, and a prompt behind what another one holds.
    let spans =
        [(2, capacity - 1, 1), (0, 0, 1), (3, 17, 5)].map(|(slot, held, tokens)| Span { slot, held, tokens });
    let rows: usize = spans.iter().map(|span| span.tokens).sum();
    let fused = drawn((rows, heads, 3, width), DType::F32)?;
    let angles = drawn((rows, pairs), DType::F32)?;
    let norms = drawn((4, width), DType::F32)?;
    let operands = |device: &Device| -> Result<_> {
        let there = |tensor: Tensor| tensor.to_device(device);
        let norm = |row: usize| -> Result<_> {
            Ok(LayerNorm::of(there(norms.get(row)?)?, there(norms.get(row + 1)?)?, EPS))
        };
        Ok(((norm(0)?, norm(2)?), RotaryRows::of(there(angles.cos()?)?, there(angles.sin()?)?)?))
    };
    let ((query_norm, key_norm), rotary) = operands(&Device::Cpu)?;
    let ((query_norm_there, key_norm_there), rotary_there) = operands(device)?;
    let mut most = 0f32;
    for dtype in TYPES {
        let store = drawn((2, slots, heads, capacity, width), dtype)?;
        let own_cache = LayerCache::of(store.force_contiguous()?.to_device(device)?);
        let step = SlotStep::of(&spans, rows, capacity, device)?;
        let found = own(
            &step,
            &fused.to_device(device)?,
            (query_norm_there.parts(), key_norm_there.parts()),
            &rotary_there,
            &own_cache,
        )?;
        let cache = LayerCache::of(store.to_dtype(DType::F32)?.force_contiguous()?);
        let expected = step_by_step(&fused, &spans, (query_norm.parts(), key_norm.parts()), &rotary, &cache)?;
        most = larger(most, distance(&found, &expected)?);
        most = larger(most, distance(own_cache.store(), cache.store())?);
    }
    Ok(most)
}

/// The step as the language model takes it where there is no kernel.
fn step_by_step(
    fused: &Tensor,
    spans: &[Span],
    (query_norm, key_norm): Norms<'_>,
    rotary: &RotaryRows,
    cache: &LayerCache,
) -> Result<Tensor> {
    use candle_core::Module as _;
    let part = |index: usize| fused.narrow(2, index, 1)?.squeeze(2);
    let queries = rotary.apply(&layer_norm_of(query_norm).forward(&part(0)?)?)?;
    let keys = rotary.apply(&layer_norm_of(key_norm).forward(&part(1)?)?)?;
    attend_in_slots([&queries, &keys, &part(2)?.transpose(0, 1)?], spans, cache)
}

fn layer_norm_of((weight, bias, eps): LayerNormParts<'_>) -> LayerNorm {
    LayerNorm::of(weight.clone(), bias.clone(), eps)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::norm::RmsNorm;

    /// What the network does without kernels, in their place.
    fn plain(of: Unfinished<'_>) -> Result<Tensor> {
        let ys = of.product.to_dtype(DType::F32)?;
        of.bias.map_or_else(|| Ok(ys.clone()), |bias| ys.broadcast_add(bias))
    }

    fn plain_softmax(scores: &Tensor, valid: usize) -> Result<()> {
        let of = softmax(&scores.narrow(1, 0, valid)?.to_dtype(DType::F32)?)?;
        let of = of.pad_with_zeros(1, 0, scores.dim(1)? - valid)?;
        scores.slice_set(&of.to_dtype(scores.dtype())?.contiguous()?, 0, 0)
    }

    /// Heads split with two tokens of zeros behind each sequence.
    fn plain_split(of: Unfinished<'_>, (tokens, heads): (usize, usize), scale: f64) -> Result<SplitHeads> {
        let parts = plain(of)?.reshape(((), tokens, 3, heads, HEADS.1))?.permute((2, 0, 3, 1, 4))?;
        let part = |part: usize, scale: f64| (parts.get(part)? * scale)?.pad_with_zeros(2, 0, 2);
        Ok(SplitHeads { parts: [part(0, scale)?, part(1, 1.0)?, part(2, 1.0)?], tokens })
    }

    fn plain_join(seen: &Tensor, tokens: usize) -> Result<Tensor> {
        seen.narrow(2, 0, tokens)?.transpose(1, 2)?.flatten_from(2)
    }

    fn plain_likeliest(logits: &Tensor, valid: usize) -> Result<Tensor> {
        let rows: Vec<f32> = (logits.to_vec2::<f32>()?.iter())
            .flat_map(|row| {
                let (id, most) = (row[..valid].iter().enumerate()).max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
                [id as f32, -row[..valid].iter().map(|x| (x - most).exp()).sum::<f32>().ln()]
            })
            .collect();
        Tensor::from_vec(rows, (logits.dim(0)?, 2), logits.device())
    }

    fn added(of: Unfinished<'_>, residual: Option<&Tensor>) -> Result<Tensor> {
        residual.map_or_else(|| plain(of), |residual| plain(of)? + residual)
    }

    #[test]
    fn what_the_network_does_without_kernels_passes() {
        use candle_core::Module as _;
        let cpu = &Device::Cpu;
        assert!(agrees("products", products(cpu, |of, then| then.follow(plain(of)?))));
        let layer_norms = layer_norm(cpu, |of, residual, norm, output| {
            let sum = added(of, residual)?;
            let normed = layer_norm_of(norm).forward(&sum)?.to_dtype(output)?;
            Ok((sum, normed))
        });
        assert!(agrees("norms", layer_norms));
        let rms_norms = rms_norm(cpu, |of, residual, (weight, eps)| {
            let normed = RmsNorm::of(weight.clone(), eps).forward(&plain(of)?)?;
            residual.map_or_else(|| Ok(normed.clone()), |residual| &normed + residual)
        });
        assert!(agrees("norms", rms_norms));
        assert!(agrees("heads", heads(cpu, plain_split, plain_join)));
        assert!(agrees("heads", softmax_in_place(cpu, plain_softmax)));
        assert!(agrees("choice", likeliest(cpu, plain_likeliest)));
        let steps = attention(cpu, |step, fused, norms, rotary, cache| {
            let places = step.places.to_vec1::<u32>()?;
            let spans: Vec<Span> = (step.slots.to_vec1::<u32>()?.into_iter().zip(places))
                .map(|(slot, place)| Span { slot: slot as usize, held: place as usize, tokens: 1 })
                .collect();
            // In f32, as there is no product of bf16 on a CPU.
            let wide = LayerCache::of(cache.store().to_dtype(DType::F32)?.force_contiguous()?);
            let seen = step_by_step(fused, &spans, norms, rotary, &wide)?;
            cache.store().slice_set(&wide.store().to_dtype(cache.store().dtype())?, 0, 0)?;
            Ok(seen)
        });
        assert!(agrees("attention", steps));
    }

    #[test]
    fn a_kernel_that_is_a_little_wrong_is_found() {
        let cpu = &Device::Cpu;
        // The other GELU's neighbour: no bias.
        assert!(!agrees("products", products(cpu, |of, then| then.follow(of.product.to_dtype(DType::F32)?))));
        // A norm that forgets to take off the mean.
        let wrong = layer_norm(cpu, |of, residual, (weight, shift, eps), _| {
            let sum = added(of, residual)?;
            let root = (sum.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
            let normed = sum.broadcast_div(&root)?.broadcast_mul(weight)?.broadcast_add(shift)?;
            Ok((sum, normed))
        });
        assert!(!agrees("norms", wrong));
        // Queries that are not scaled.
        assert!(!agrees("heads", heads(cpu, |of, sizes, _| plain_split(of, sizes, 1.0), plain_join)));
        // Heads that are not put back beside each other.
        let stacked = |seen: &Tensor, tokens| seen.narrow(2, 0, tokens)?.reshape((2, 5, HEADS.0 * HEADS.1));
        assert!(!agrees("heads", heads(cpu, plain_split, stacked)));
        // A softmax that does nothing, and one of too many values.
        assert!(!agrees("heads", softmax_in_place(cpu, |_, _| Ok(()))));
        assert!(!agrees("heads", softmax_in_place(cpu, |scores, _| plain_softmax(scores, ROWS.1))));
        // A choice among what is no token.
        assert!(!agrees("choice", likeliest(cpu, |logits, valid| plain_likeliest(logits, valid + 1))));
        // Attention that writes nothing to the cache.
        let silent = attention(cpu, |_, fused, _, _, _| {
            Tensor::zeros(fused.dims4().map(|(r, h, _, w)| (r, h * w))?, DType::F32, cpu)
        });
        assert!(!agrees("attention", silent));
    }

    #[test]
    fn neither_errors_nor_numbers_that_are_none_pass() {
        assert!(!agrees("any", Err(candle_core::Error::Msg("no such function".to_owned()))));
        assert!(!agrees("any", Ok(f32::NAN)));
        let (found, expected) = ([f32::NAN, 1.0], [1f32, 1.0]);
        let of = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        assert!(distance(&of(&found), &of(&expected)).unwrap().is_nan());
        assert!(distance(&of(&found[..1]), &of(&expected)).unwrap().is_infinite());
    }

    #[test]
    fn a_cpu_has_none() {
        assert_eq!(OwnKernels::checked(&Device::Cpu), OwnKernels::NONE);
        assert!(OwnKernels::NONE.names().is_empty());
    }
}
