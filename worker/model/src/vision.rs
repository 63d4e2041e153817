//! The EVA vision tower (ViT-g/14 in the published model): pre-norm blocks over a class token and
//! patches with learned absolute positions, no norm at the end.
use candle_core::{DType, Module, Result, Tensor};
use captionfleet_kernels::Activation;

use crate::{
    ModelError, VisionConfig, WeightError, Weights,
    attention::{attend_each, attend_split},
    error::DuringStep,
    linear::Linear,
    norm::LayerNorm,
    own_kernels::OwnKernels,
    position,
    probe::{Point, Probe},
};

/// Bytes of a block's widest activations, beyond which pictures pass it a few at a time on a CPU: what one layer writes is still in a
/// cache when the next reads it.
const CACHED: usize = 8 << 20;

/// The tower, with a position table for each picture size it serves.
#[derive(Debug)]
pub(crate) struct VisionTower {
    patch_size: usize,
    patch: Linear,
    class_token: Tensor,
    /// Picture side and its table `(1, tokens, D)`.
    positions: Vec<(usize, Tensor)>,
    blocks: Vec<Block>,
    /// Values of a token between the layers of an MLP.
    hidden: usize,
}

impl VisionTower {
    /// Loads `cls_token`, `pos_embed`, `patch_embed.proj.*`, `blocks.N.*` below the view's prefix.
    pub(crate) fn load(
        weights: &Weights,
        config: &VisionConfig,
        image_sizes: &[usize],
    ) -> std::result::Result<Self, ModelError> {
        let (width, patch_size) = (config.embed_dim, config.patch_size);
        let proj = weights.pp("patch_embed").pp("proj");
        let patch = proj.patch_kernel((width, 3, patch_size), proj.tensor(width, "bias")?)?;
        let class_token = weights.tensor((1, 1, width), "cls_token")?;
        let table = weights.tensor((1, config.tokens(config.pretrain_image_size), width), "pos_embed")?;
        let positions = image_sizes
            .iter()
            .map(|&size| {
                let from = config.pretrain_image_size / patch_size;
                Ok((size, position::interpolate(&table, from, size / patch_size)?))
            })
            .collect::<Result<_>>()
            .during("interpolation of picture positions")?;
        let blocks = (0..config.depth)
            .map(|index| Block::load(&weights.pp("blocks").pp(index), config))
            .collect::<std::result::Result<_, _>>()?;
        Ok(Self { patch_size, patch, class_token, positions, blocks, hidden: config.mlp_hidden })
    }

    /// Features `(B, N, D)` of pixels `(B, 3, S, S)`; `S` is one of the sizes given at load.
    pub(crate) fn forward(&self, pixels: &Tensor, probe: Probe) -> Result<Tensor> {
        let (batch, channels, size, _) = pixels.dims4()?;
        let Some((_, positions)) = self.positions.iter().find(|(served, _)| *served == size) else {
            candle_core::bail!("the vision tower has no positions for pictures of {size} px")
        };
        let (side, grid) = (self.patch_size, size / self.patch_size);
        let patches = pixels
            .reshape((batch, channels, grid, side, grid, side))?
            .permute((0, 2, 4, 1, 3, 5))?
            .reshape((batch, grid * grid, channels * side * side))?;
        let patches = self.patch.forward(&patches)?;
        let class = self.class_token.broadcast_as((batch, 1, patches.dim(2)?))?;
        let mut stream = Tensor::cat(&[class, patches], 1)?.broadcast_add(positions)?;
        probe(Point::VisionInput, &stream);
        for (index, block) in self.blocks.iter().enumerate() {
            stream = self.through(block, &stream)?;
            probe(Point::VisionBlock(index), &stream);
        }
        Ok(stream)
    }

    fn through(&self, block: &Block, stream: &Tensor) -> Result<Tensor> {
        let (batch, tokens, _) = stream.dims3()?;
        let at_a_time = (CACHED / (tokens * self.hidden * size_of::<f32>())).max(1);
        if !stream.device().is_cpu() || batch <= at_a_time {
            return block.forward(stream);
        }
        let pieces: Vec<Tensor> = (0..batch)
            .step_by(at_a_time)
            .map(|first| block.forward(&stream.narrow(0, first, at_a_time.min(batch - first))?))
            .collect::<Result<_>>()?;
        Tensor::cat(&pieces, 0)
    }
}

#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    attention: Attention,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl Block {
    fn load(weights: &Weights, config: &VisionConfig) -> std::result::Result<Self, WeightError> {
        let (width, hidden, eps) = (config.embed_dim, config.mlp_hidden, config.norm_eps);
        let norm1 = LayerNorm::load(&weights.pp("norm1"), width, eps)?;
        let attention = Attention::load(&weights.pp("attn"), config)?;
        let norm2 = LayerNorm::load(&weights.pp("norm2"), width, eps)?;
        let fc1 = weights.linear(width, hidden, "mlp.fc1")?;
        Ok(Self {
            norm1: norm1.before(&[attention.qkv.input_type()]),
            attention,
            norm2: norm2.before(&[fc1.input_type()]),
            fc1,
            fc2: weights.linear(hidden, width, "mlp.fc2")?,
        })
    }

    fn forward(&self, stream: &Tensor) -> Result<Tensor> {
        let seen = self.attention.forward(&self.norm1.forward(stream)?)?;
        let (stream, normed) = self.attention.proj.added_and_normed(stream, &seen, &self.norm2)?;
        Linear::feed_forward([&self.fc1, &self.fc2], Activation::GeluErf, &stream, &normed)
    }
}

#[derive(Debug)]
struct Attention {
    heads: usize,
    qkv: Linear,
    proj: Linear,
    kernels: OwnKernels,
}

impl Attention {
    fn load(weights: &Weights, config: &VisionConfig) -> std::result::Result<Self, WeightError> {
        let width = config.embed_dim;
        let query = weights.tensor(width, "q_bias")?;
        let value = weights.tensor(width, "v_bias")?;
        // Keys have no bias: it would add the same number to all scores of a query.
        let bias = Tensor::zeros(width, DType::F32, query.device())
            .and_then(|key| Tensor::cat(&[&query, &key, &value], 0))
            .map_err(|source| WeightError::Backend { name: "attn bias".to_owned(), source })?;
        Ok(Self {
            heads: config.num_heads,
            qkv: weights.pp("qkv").linear_with_bias(width, 3 * width, Some(bias))?,
            proj: weights.linear(width, width, "proj")?,
            kernels: weights.kernels(),
        })
    }

    /// What each token sees, before the projection.
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (batch, tokens, width) = xs.dims3()?;
        let head_dim = width / self.heads;
        let scale = (head_dim as f64).powf(-0.5);
        if let Some(split) = self.qkv.split_into_heads(xs, self.heads, scale)? {
            return attend_split(&split, self.kernels);
        }
        let qkv = self.qkv.forward(xs)?.reshape((batch, tokens, 3, self.heads, head_dim))?;
        let part = |index: usize| qkv.narrow(2, index, 1)?.squeeze(2)?.transpose(1, 2);
        let parts = [&part(0)?, &part(1)?, &part(2)?];
        attend_each(parts, scale, None, self.qkv.backend(), self.kernels)
    }
}
