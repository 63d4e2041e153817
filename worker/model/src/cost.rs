//! What a step costs in arithmetic, counted from the dimensions: two operations a multiplication.

use crate::{ModelConfig, VisionConfig};

/// Floating-point operations of one picture's way through the vision tower: once for captions, and once more where the retrieval
/// heads see it in another size or through a tower of their own.
pub fn vision_flops(config: &ModelConfig) -> f64 {
    let of_size = |image_size| tower_flops(&config.vision, config.vision.tokens(image_size));
    let second = config.retrieval.as_ref().filter(|_| !config.shares_vision_pass());
    of_size(config.image_size) + second.map_or(0.0, |retrieval| of_size(retrieval.image_size))
}

/// Floating-point operations of reading a prompt of `tokens`, with the output head on the last one.
pub fn prefill_flops(config: &ModelConfig, tokens: usize) -> f64 {
    let lm = &config.lm;
    let (width, tokens) = (lm.hidden_size as f64, tokens as f64);
    let products = width * (4.0 * width + 2.0 * lm.intermediate_size as f64);
    // Every token looks at those before it: half of all pairs, once for the scores and once for the values.
    let attention = tokens * width;
    let layers = lm.num_layers as f64 * tokens * (products + attention);
    2.0 * (layers + width * lm.vocab_size as f64)
}

fn tower_flops(vision: &VisionConfig, tokens: usize) -> f64 {
    let (width, tokens) = (vision.embed_dim as f64, tokens as f64);
    let products = width * (4.0 * width + 2.0 * vision.mlp_hidden as f64);
    let attention = 2.0 * tokens * width;
    let patches = width * 3.0 * (vision.patch_size as f64).powi(2);
    2.0 * tokens * (vision.depth as f64 * (products + attention) + patches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RetrievalConfig;

    #[test]
    fn the_published_model_costs_what_its_description_says() {
        let config = ModelConfig::tinygpt_v(224);
        assert!((vision_flops(&config) / 521e9 - 1.0).abs() < 0.01, "{}", vision_flops(&config));
        let large = ModelConfig::tinygpt_v(448);
        assert!((vision_flops(&large) / 2250e9 - 1.0).abs() < 0.01, "{}", vision_flops(&large));
        let both = ModelConfig { retrieval: Some(RetrievalConfig::blip2_itm_vit_g()), ..large };
        assert!((vision_flops(&both) / 2771e9 - 1.0).abs() < 0.01, "{}", vision_flops(&both));
        let shared = ModelConfig { retrieval: both.retrieval, ..config.clone() };
        assert!((vision_flops(&shared) / 521e9 - 1.0).abs() < 0.01, "{}", vision_flops(&shared));
        assert!((prefill_flops(&config, 64) / 323e9 - 1.0).abs() < 0.02, "{}", prefill_flops(&config, 64));
    }
}
