//! The kernels on tensors: sizes are checked here, before addresses are all that is left of them.
mod launching;
mod recording;

use candle_core::{
    CpuStorage, CudaStorage, DType, InplaceOp1, Layout, Result, Shape, Tensor, backend::BackendStorage, bail,
};
use captionfleet_cuda_kernels::{self as kernels, Element, Finish, SlotAttention, SlotShape, Tokens};
use captionfleet_kernels::Activation;

use self::launching::{Operand, Output, address_in_place, element, launch, rows_of};
pub(crate) use self::recording::Recordings;
use super::{LayerNormParts, RmsNormParts, SlotStep, SplitHeads, Unfinished};
use crate::{kv_cache::LayerCache, packed::Then, rotary::RotaryRows};

pub(super) fn finish(of: Unfinished<'_>, then: &Then<'_>) -> Result<Tensor> {
    let (product, bias) = (Operand::of(of.product)?, of.bias.map(Operand::of).transpose()?);
    let residual = match then {
        Then::Add(residual) => Some(Operand::like(residual, of.product.shape())?),
        Then::Nothing | Then::Activate(_) => None,
    };
    let (rows, width) = product.rows()?;
    let then = match (then, &residual) {
        (Then::Activate(Activation::GeluErf), _) => kernels::Then::GeluErf,
        (Then::Activate(Activation::GeluTanh), _) => kernels::Then::GeluTanh,
        (_, Some(residual)) => kernels::Then::Add { residual: residual.address()? },
        (_, None) => kernels::Then::Nothing,
    };
    let finish = Finish { element: product.element()?, rows, width, then };
    let mut out = Output::new(product.device()?, finish.output(), of.product.shape())?;
    let bias_at = bias.as_ref().map(|bias| bias.vector(width)).transpose()?;
    let call = finish.launch(product.address()?, bias_at, out.address()?);
    let reads: Vec<_> = [Some(&product), bias.as_ref(), residual.as_ref()].into_iter().flatten().collect();
    // SAFETY: the operands and the output have the sizes that the launch is made of.
    unsafe { launch(product.device()?, &call, &reads, &mut [out.storage()])? };
    Ok(out.tensor())
}

/// The sum, and its norm in a type of its own; with neither bias nor residual the sum is the product itself.
pub(super) fn layer_norm(
    of: Unfinished<'_>,
    residual: Option<&Tensor>,
    (weight, shift, eps): LayerNormParts<'_>,
    output: DType,
) -> Result<(Tensor, Tensor)> {
    let shape = of.product.shape();
    let (product, bias) = (Operand::of(of.product)?, of.bias.map(Operand::of).transpose()?);
    let residual = residual.map(|residual| Operand::like(residual, shape)).transpose()?;
    let (rows, width) = product.rows()?;
    let (weight, shift) = (Operand::of(weight)?, Operand::of(shift)?);
    let output = element(output)?;
    let layer_norm = kernels::LayerNorm {
        element: product.element()?,
        output,
        rows,
        width,
        eps: eps as f32,
        bias: bias.as_ref().map(|bias| bias.vector(width)).transpose()?,
        residual: residual.as_ref().map(Operand::address).transpose()?,
        weight: weight.vector(width)?,
        shift: shift.vector(width)?,
    };
    let device = product.device()?;
    let is_sum = bias.is_some() || residual.is_some();
    let mut sum = is_sum.then(|| Output::new(device, Element::F32, shape)).transpose()?;
    let mut normed = Output::new(device, output, shape)?;
    let sum_at = sum.as_ref().map(Output::address).transpose()?;
    let Some(call) = layer_norm.launch(product.address()?, sum_at, normed.address()?) else {
        bail!("rows of {width} values are too wide for the memory of a block")
    };
    let reads = [Some(&product), bias.as_ref(), residual.as_ref(), Some(&weight), Some(&shift)];
    let reads: Vec<_> = reads.into_iter().flatten().collect();
    let mut writes: Vec<_> = sum.iter_mut().chain([&mut normed]).map(Output::storage).collect();
    // SAFETY: as above.
    unsafe { launch(device, &call, &reads, &mut writes)? };
    Ok((sum.map_or_else(|| of.product.clone(), Output::tensor), normed.tensor()))
}

pub(super) fn rms_norm(
    of: Unfinished<'_>,
    residual: Option<&Tensor>,
    (weight, eps): RmsNormParts<'_>,
) -> Result<Tensor> {
    let shape = of.product.shape();
    let (product, bias) = (Operand::of(of.product)?, of.bias.map(Operand::of).transpose()?);
    let residual = residual.map(|residual| Operand::like(residual, shape)).transpose()?;
    let (rows, width) = product.rows()?;
    let weight = Operand::of(weight)?;
    let rms_norm = kernels::RmsNorm {
        element: product.element()?,
        rows,
        width,
        eps: eps as f32,
        bias: bias.as_ref().map(|bias| bias.vector(width)).transpose()?,
        weight: weight.vector(width)?,
        residual: residual.as_ref().map(Operand::address).transpose()?,
    };
    let mut out = Output::new(product.device()?, Element::F32, shape)?;
    let Some(call) = rms_norm.launch(product.address()?, out.address()?) else {
        bail!("rows of {width} values are too wide for the memory of a block")
    };
    let reads = [Some(&product), bias.as_ref(), Some(&weight), residual.as_ref()];
    let reads: Vec<_> = reads.into_iter().flatten().collect();
    // SAFETY: as above.
    unsafe { launch(product.device()?, &call, &reads, &mut [out.storage()])? };
    Ok(out.tensor())
}

pub(super) fn norms_serve(width: usize) -> bool {
    kernels::norms_serve(width)
}

pub(super) fn split_heads(
    of: Unfinished<'_>,
    (tokens, heads): (usize, usize),
    scale: f64,
) -> Result<SplitHeads> {
    let (product, bias) = (Operand::of(of.product)?, of.bias.map(Operand::of).transpose()?);
    let (rows, columns) = product.rows()?;
    let (sequences, width) = (rows as usize / tokens.max(1), columns as usize / (3 * heads.max(1)));
    if (sequences * tokens, 3 * heads * width) != (rows as usize, columns as usize) {
        bail!("{rows} rows of {columns} values are not {tokens} tokens of {heads} heads each")
    }
    let shape = head_shape(product.element()?, [sequences, tokens, heads, width]);
    let bias_at = bias.as_ref().map(|bias| bias.vector(columns)).transpose()?;
    let out_shape = Shape::from((3, sequences, heads, shape.padded() as usize, width));
    let mut out = Output::new(product.device()?, shape.element, &out_shape)?;
    let Some(call) = shape.split(product.address()?, bias_at, scale as f32, out.address()?) else {
        bail!("{rows} rows are more than a kernel counts")
    };
    let reads: Vec<_> = [Some(&product), bias.as_ref()].into_iter().flatten().collect();
    // SAFETY: as above.
    unsafe { launch(product.device()?, &call, &reads, &mut [out.storage()])? };
    let parts = out.tensor();
    Ok(SplitHeads { parts: [parts.get(0)?, parts.get(1)?, parts.get(2)?], tokens })
}

pub(super) fn join_heads(seen: &Tensor, tokens: usize) -> Result<Tensor> {
    let operand = Operand::of(seen)?;
    let (sequences, heads, padded, width) = seen.dims4()?;
    let shape = head_shape(operand.element()?, [sequences, tokens, heads, width]);
    if shape.padded() as usize != padded {
        bail!("heads of {padded} tokens are not those of {tokens} and what is filled up")
    }
    let out_shape = Shape::from((sequences, tokens, heads * width));
    let mut out = Output::new(operand.device()?, shape.element, &out_shape)?;
    let Some(call) = shape.join(operand.address()?, out.address()?) else {
        bail!("{sequences} sequences of {tokens} tokens are more than a kernel counts")
    };
    // SAFETY: as above.
    unsafe { launch(operand.device()?, &call, &[&operand], &mut [out.storage()])? };
    Ok(out.tensor())
}

fn head_shape(element: Element, sizes: [usize; 4]) -> kernels::HeadShape {
    let [sequences, tokens, heads, width] = sizes.map(|size| size as u32);
    kernels::HeadShape { element, sequences, tokens, heads, width }
}

pub(super) fn softmax(scores: &Tensor, valid: usize) -> Result<()> {
    scores.inplace_op1(&Softmax { valid })
}

struct Softmax {
    valid: usize,
}

impl InplaceOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax-in-place"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        bail!("a kernel of the GPU was given scores that lie elsewhere")
    }

    fn cuda_fwd(&self, scores: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let (rows, width) = rows_of(layout.shape())?;
        let valid = u32::try_from(self.valid).unwrap_or(u32::MAX);
        let softmax = kernels::Softmax { element: element(scores.dtype())?, rows, width, valid };
        let call = softmax.launch(address_in_place(scores, layout)?);
        let device = scores.device.clone();
        // SAFETY: the scores have as many rows as the launch, which reads nothing else.
        unsafe { launch(&device, &call, &[], &mut [scores]) }
    }
}

pub(super) fn likeliest(logits: &Tensor, valid: usize) -> Result<Tensor> {
    let operand = Operand::of(logits)?;
    let (rows, width) = operand.rows()?;
    operand.expect(DType::F32, rows as usize * width as usize)?;
    let mut out = Output::new(operand.device()?, Element::F32, &Shape::from((rows as usize, 2)))?;
    let likeliest = kernels::Likeliest { rows, width, valid: u32::try_from(valid).unwrap_or(u32::MAX) };
    let Some(call) = likeliest.launch(operand.address()?, out.address()?) else {
        bail!("a kernel was asked for {valid} tokens of {width} logits")
    };
    // SAFETY: as above.
    unsafe { launch(operand.device()?, &call, &[&operand], &mut [out.storage()])? };
    Ok(out.tensor())
}

pub(super) fn attention_serves(width: usize, longest: usize) -> bool {
    SlotShape::is_served(width, longest)
}

pub(super) fn in_slots(
    step: &SlotStep,
    fused: &Tensor,
    (query_norm, key_norm): (LayerNormParts<'_>, LayerNormParts<'_>),
    rotary: &RotaryRows,
    cache: &LayerCache,
) -> Result<Tensor> {
    let tokens = StepOperands::of(step, fused, rotary)?;
    cache.store().inplace_op1(&Append { tokens: &tokens, norm: key_norm, longest: step.longest })?;
    let store = Operand::of(cache.store())?;
    let attention = tokens.attention(store.shape(), store.element()?, query_norm, step.longest)?;
    let (rows, heads, _, width) = fused.dims4()?;
    let mut out = Output::new(store.device()?, Element::F32, &Shape::from((rows, heads * width)))?;
    let (weight, shift, _) = query_norm;
    let (weight, shift) = (Operand::of(weight)?, Operand::of(shift)?);
    let [weight_at, shift_at] = [weight.vector(attention.shape.width)?, shift.vector(attention.shape.width)?];
    let call = attention.attend(weight_at, shift_at, store.address()?, step.longest as u32, out.address()?);
    let mut reads = tokens.all().to_vec();
    reads.extend([&weight, &shift, &store]);
    // SAFETY: as above; slots and contexts lie within the cache, at which the kernel looks, too.
    unsafe { launch(store.device()?, &call, &reads, &mut [out.storage()])? };
    Ok(out.tensor())
}

/// What both kernels of a step read.
struct StepOperands<'a> {
    fused: Operand<'a>,
    cosines: Operand<'a>,
    sines: Operand<'a>,
    slots: Operand<'a>,
    places: Operand<'a>,
}

impl<'a> StepOperands<'a> {
    fn of(step: &'a SlotStep, fused: &'a Tensor, rotary: &'a RotaryRows) -> Result<Self> {
        let (cosines, sines) = rotary.tables();
        Ok(Self {
            fused: Operand::of(fused)?,
            cosines: Operand::of(cosines)?,
            sines: Operand::of(sines)?,
            slots: Operand::of(&step.slots)?,
            places: Operand::of(&step.places)?,
        })
    }

    fn all(&self) -> [&Operand<'a>; 5] {
        [&self.fused, &self.cosines, &self.sines, &self.slots, &self.places]
    }

    /// For a cache of that shape and type, and one of the two norms.
    fn attention(
        &self,
        cache: &Shape,
        element: Element,
        (_, _, eps): LayerNormParts<'_>,
        longest: usize,
    ) -> Result<SlotAttention> {
        let (rows, heads, parts, width) = self.fused.shape().dims4()?;
        let (halves, slots, cache_heads, capacity, cache_width) = cache.dims5()?;
        let turned = self.cosines.shape().dims2()?.1;
        if (parts, halves, cache_heads, cache_width) != (3, 2, heads, width) || longest > capacity {
            bail!("tokens {:?} up to place {longest} do not fit the cache {cache:?}", self.fused.shape())
        }
        if 2 * turned > width || !attention_serves(width, longest) {
            bail!(
                "no kernel turns {turned} pairs of a head of {width} values and attends to {longest} tokens"
            )
        }
        self.fused.expect(DType::F32, rows * heads * parts * width)?;
        self.cosines.expect(DType::F32, rows * turned)?;
        self.sines.expect(DType::F32, rows * turned)?;
        self.slots.expect(DType::U32, rows)?;
        self.places.expect(DType::U32, rows)?;
        let [rows, heads, width, turned, slots, capacity] =
            [rows, heads, width, turned, slots, capacity].map(|size| size as u32);
        Ok(SlotAttention {
            shape: SlotShape { element, rows, heads, width, turned, slots, capacity },
            tokens: Tokens {
                fused: self.fused.address()?,
                cosines: self.cosines.address()?,
                sines: self.sines.address()?,
                slots: self.slots.address()?,
                places: self.places.address()?,
            },
            eps: eps as f32,
        })
    }
}

/// Writes a step's keys and values into the cache.
struct Append<'a> {
    tokens: &'a StepOperands<'a>,
    norm: LayerNormParts<'a>,
    longest: usize,
}

impl InplaceOp1 for Append<'_> {
    fn name(&self) -> &'static str {
        "append-to-cache"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        bail!("a kernel of the GPU was given a cache that lies elsewhere")
    }

    fn cuda_fwd(&self, cache: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let element = element(cache.dtype())?;
        let attention = self.tokens.attention(layout.shape(), element, self.norm, self.longest)?;
        let (weight, shift, _) = self.norm;
        let (weight, shift) = (Operand::of(weight)?, Operand::of(shift)?);
        let [weight_at, shift_at] =
            [weight.vector(attention.shape.width)?, shift.vector(attention.shape.width)?];
        let call = attention.append(weight_at, shift_at, address_in_place(cache, layout)?);
        let mut reads = self.tokens.all().to_vec();
        reads.extend([&weight, &shift]);
        let device = cache.device.clone();
        // SAFETY: as above; no two rows have the same place of a slot, which the cache's plan makes sure of.
        unsafe { launch(&device, &call, &reads, &mut [cache]) }
    }
}
