//! The kernels on tensors: sizes are checked here, before addresses are all that is left of them.
mod launching;

use candle_core::{
    CpuStorage, CudaStorage, DType, InplaceOp1, Layout, Result, Shape, Tensor, backend::BackendStorage, bail,
};
use captionfleet_cuda_kernels::{self as kernels, DecodeAttention, DecodeShape, Element, Finish, Tokens};
use captionfleet_kernels::Activation;

use self::launching::{Operand, Output, address_in_place, element, launch};
use super::{DecodeStep, LayerNormParts, RmsNormParts, Unfinished};
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

/// The sum and its norm; with neither bias nor residual the sum is the product itself.
pub(super) fn layer_norm(
    of: Unfinished<'_>,
    residual: Option<&Tensor>,
    (weight, shift, eps): LayerNormParts<'_>,
) -> Result<(Tensor, Tensor)> {
    let shape = of.product.shape();
    let (product, bias) = (Operand::of(of.product)?, of.bias.map(Operand::of).transpose()?);
    let residual = residual.map(|residual| Operand::like(residual, shape)).transpose()?;
    let (rows, width) = product.rows()?;
    let (weight, shift) = (Operand::of(weight)?, Operand::of(shift)?);
    let layer_norm = kernels::LayerNorm {
        element: product.element()?,
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
    let mut normed = Output::new(device, Element::F32, shape)?;
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

pub(super) fn attention_serves(width: usize, longest: usize) -> bool {
    DecodeShape::is_served(width, longest)
}

pub(super) fn decode(
    step: &DecodeStep,
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
    held: Operand<'a>,
}

impl<'a> StepOperands<'a> {
    fn of(step: &'a DecodeStep, fused: &'a Tensor, rotary: &'a RotaryRows) -> Result<Self> {
        let (cosines, sines) = rotary.tables();
        Ok(Self {
            fused: Operand::of(fused)?,
            cosines: Operand::of(cosines)?,
            sines: Operand::of(sines)?,
            slots: Operand::of(&step.slots)?,
            held: Operand::of(&step.held)?,
        })
    }

    fn all(&self) -> [&Operand<'a>; 5] {
        [&self.fused, &self.cosines, &self.sines, &self.slots, &self.held]
    }

    /// For a cache of that shape and type, and one of the two norms.
    fn attention(
        &self,
        cache: &Shape,
        element: Element,
        (_, _, eps): LayerNormParts<'_>,
        longest: usize,
    ) -> Result<DecodeAttention> {
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
        self.held.expect(DType::U32, rows)?;
        let [rows, heads, width, turned, slots, capacity] =
            [rows, heads, width, turned, slots, capacity].map(|size| size as u32);
        Ok(DecodeAttention {
            shape: DecodeShape { element, rows, heads, width, turned, slots, capacity },
            tokens: Tokens {
                fused: self.fused.address()?,
                cosines: self.cosines.address()?,
                sines: self.sines.address()?,
                slots: self.slots.address()?,
                held: self.held.address()?,
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
        // SAFETY: as above; no two rows have the same slot, which the cache's plan makes sure of.
        unsafe { launch(&device, &call, &reads, &mut [cache]) }
    }
}
