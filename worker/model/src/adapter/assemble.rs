//! From a file full of names to an adapter that fits the model, or to the name of what does not.

use candle_core::Tensor;

use super::parts::Parts;
use super::{
    Adapter, AdapterConfig, AdapterError, AttentionAdapter, LayerAdapter, LowRank, QFormerLayerAdapter,
};
use crate::checkpoint::TensorSource;
use crate::norm::{LayerNorm, RmsNorm};
use crate::projector::Projector;
use crate::{ModelConfig, PhiConfig, TinyGptV};

/// The norms that may be trained whole, as modules of the language model.
pub(super) const NORMS: [&str; 5] =
    ["input_layernorm", "post_layernorm", "q_layernorm", "k_layernorm", "final_layernorm"];

/// Makes the adapter; refuses what it does not know.
pub(super) fn assemble(
    source: &dyn TensorSource,
    config: &AdapterConfig,
    model: &TinyGptV,
    digest: String,
) -> Result<Adapter, AdapterError> {
    let mut parts = Parts::new(source, config, model.device());
    let phi = model.language();
    let lm = &model.config().lm;
    let (width, hidden) = (lm.hidden_size, lm.intermediate_size);
    let mut layers = Vec::with_capacity(phi.layers().len());
    for (index, layer) in phi.layers().iter().enumerate() {
        let name = format!("llama_model.model.layers.{index}");
        let own = format!("{name}.self_attn");
        layers.push(LayerAdapter {
            norm: layer_norm(&mut parts, &format!("{name}.input_layernorm"), layer.norm())?,
            query_norm: layer_norm(&mut parts, &format!("{own}.q_layernorm"), layer.query_norm())?,
            key_norm: layer_norm(&mut parts, &format!("{own}.k_layernorm"), layer.key_norm())?,
            post_norm: rms_norm(&mut parts, &format!("{name}.post_layernorm"), layer.post_norm())?,
            query_key_value: attention(&mut parts, lm, &own)?,
            dense: parts.low_rank(&format!("{own}.dense"), width, width)?,
            fc1: parts.low_rank(&format!("{name}.mlp.fc1"), width, hidden)?,
            fc2: parts.low_rank(&format!("{name}.mlp.fc2"), hidden, width)?,
        });
    }
    let final_norm = layer_norm(&mut parts, "llama_model.model.final_layernorm", phi.final_norm())?;
    let qformer = qformer(&mut parts, model.config())?;
    let projector = projector(&mut parts, model.config())?;
    parts.refuse_rest()?;
    if parts.bytes == 0 {
        return Err(AdapterError::Empty);
    }
    Ok(Adapter { digest, layers, final_norm, qformer, projector, bytes: parts.bytes })
}

fn layer_norm(
    parts: &mut Parts<'_>,
    name: &str,
    base: &LayerNorm,
) -> Result<Option<LayerNorm>, AdapterError> {
    let weight = parts.weight(&format!("{name}.weight"), &[base.width()])?;
    let bias = parts.weight(&format!("{name}.bias"), &[base.width()])?;
    Ok((weight.is_some() || bias.is_some()).then(|| base.changed(weight, bias)))
}

fn rms_norm(parts: &mut Parts<'_>, name: &str, base: &RmsNorm) -> Result<Option<RmsNorm>, AdapterError> {
    let weight = parts.weight(&format!("{name}.weight"), &[base.width()])?;
    Ok(weight.map(|weight| base.changed(weight)))
}

/// The change of the fused attention matrix, from a fused one or from those of queries, keys and values, or both.
fn attention(
    parts: &mut Parts<'_>,
    lm: &PhiConfig,
    attention: &str,
) -> Result<Option<LowRank>, AdapterError> {
    let width = lm.hidden_size;
    let (mut downs, mut ups) = (Vec::new(), Vec::new());
    if let Some((a, b)) = parts.halves(&format!("{attention}.query_key_value"), width, 3 * width)? {
        downs.push(a);
        ups.push(b);
    }
    for (index, part) in ["q_proj", "k_proj", "v_proj"].into_iter().enumerate() {
        if let Some((a, b)) = parts.halves(&format!("{attention}.{part}"), width, width)? {
            downs.push(a);
            ups.push(among_heads(lm, &b, index)?);
        }
    }
    if downs.is_empty() {
        return Ok(None);
    }
    parts.change(&Tensor::cat(&downs, 0)?, &Tensor::cat(&ups, 1)?).map(Some)
}

/// Rows of queries, keys or values (`index` 0, 1, 2) where the fused matrix has them: head by head.
fn among_heads(lm: &PhiConfig, b: &Tensor, index: usize) -> Result<Tensor, AdapterError> {
    let (rows, rank) = b.dims2()?;
    let b = b.reshape((lm.num_heads, 1, lm.head_dim(), rank))?;
    let zeros = b.zeros_like()?;
    let parts: Vec<&Tensor> = (0..3).map(|part| if part == index { &b } else { &zeros }).collect();
    Ok(Tensor::cat(&parts, 1)?.reshape((3 * rows, rank))?)
}

/// What changes in the Q-Former, a layer each; nothing if nothing does.
fn qformer(parts: &mut Parts<'_>, config: &ModelConfig) -> Result<Vec<QFormerLayerAdapter>, AdapterError> {
    let (dimensions, picture) = (&config.qformer, config.vision.embed_dim);
    let (width, hidden) = (dimensions.hidden_size, dimensions.intermediate_size);
    let before = parts.bytes;
    let mut layers = Vec::with_capacity(dimensions.num_layers);
    for index in 0..dimensions.num_layers {
        let name = format!("Qformer.bert.encoder.layer.{index}");
        let mut attention = |kind: &str, source: usize| {
            let own = format!("{name}.{kind}");
            Ok::<_, AdapterError>(AttentionAdapter {
                query: parts.low_rank(&format!("{own}.self.query"), width, width)?,
                key: parts.low_rank(&format!("{own}.self.key"), source, width)?,
                value: parts.low_rank(&format!("{own}.self.value"), source, width)?,
                output: parts.low_rank(&format!("{own}.output.dense"), width, width)?,
            })
        };
        let to_itself = attention("attention", width)?;
        let to_picture = if dimensions.has_cross_attention(index) {
            attention("crossattention", picture)?
        } else {
            AttentionAdapter::default()
        };
        layers.push(QFormerLayerAdapter {
            attention: to_itself,
            cross_attention: to_picture,
            intermediate: parts.low_rank(&format!("{name}.intermediate_query.dense"), width, hidden)?,
            output: parts.low_rank(&format!("{name}.output_query.dense"), hidden, width)?,
        });
    }
    Ok(if parts.bytes == before { Vec::new() } else { layers })
}

/// Both projections, as the reference's files have them; one alone means nothing.
fn projector(parts: &mut Parts<'_>, config: &ModelConfig) -> Result<Option<Projector>, AdapterError> {
    let (queries, hidden) = (config.qformer.hidden_size, config.projection.hidden);
    let outputs = config.lm.hidden_size;
    let tensors = parts.together([
        ("llama_proj.weight", &[hidden, queries]),
        ("llama_proj.bias", &[hidden]),
        ("llama_proj2.weight", &[outputs, hidden]),
        ("llama_proj2.bias", &[outputs]),
    ])?;
    let Some([first, first_bias, second, second_bias]) = tensors else { return Ok(None) };
    Ok(Some(Projector::new((&first, first_bias), (&second, second_bias))?))
}
