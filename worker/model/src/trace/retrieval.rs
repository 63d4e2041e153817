//! The traced runs of the retrieval heads: all pictures with all texts.
use candle_core::{DType, Device, Tensor};
use candle_nn::ops::softmax_last_dim;

use super::{TraceError, settings::RetrievalSettings, tensors::TraceTensors};
use crate::{ModelError, TextTokenizer, TinyGptV, probe::Point};

pub(super) fn trace(
    model: &TinyGptV,
    tokenizer: &TextTokenizer,
    settings: &RetrievalSettings,
    pixels: &[Tensor],
    tensors: &mut TraceTensors,
) -> Result<(), TraceError> {
    let head = model.retrieval().ok_or(ModelError::NoRetrieval)?;
    let last_layer = Point::QFormerLayer(head.config().qformer.num_layers - 1);

    let mut features = Vec::new();
    let (mut normed, mut hidden, mut embeddings) = (Vec::new(), Vec::new(), Vec::new());
    for pixels in pixels {
        let picture = model.retrieval_features(pixels)?;
        let watch = &mut |point, tensor: &Tensor| match point {
            Point::VisionNorm => normed.push(tensor.clone()),
            point if point == last_layer => hidden.push(tensor.clone()),
            _ => {}
        };
        embeddings.push(head.image_embeddings_watched(&picture, watch)?);
        features.push(picture);
    }
    let embeddings = Tensor::cat(&embeddings, 0)?;
    let mut itc = tensors.below("itc");
    itc.put("vit_out_before_post_layernorm", Tensor::cat(&features, 0)?)?;
    itc.put("vision_last_hidden_state", Tensor::cat(&normed, 0)?)?;
    itc.put("qformer_image_out", Tensor::cat(&hidden, 0)?)?;
    itc.put("image_embeds", embeddings.clone())?;

    let texts = settings.texts.iter().map(|text| tokenizer.encode(text)).collect::<Result<Vec<_>, _>>()?;
    let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
    let mut padded = Vec::new();
    let (mut hidden, mut text_embeddings) = (Vec::new(), Vec::new());
    for text in &texts {
        let mut ids = text.clone();
        ids.resize(longest, tokenizer.pad());
        let watch = &mut |point, tensor: &Tensor| {
            if point == last_layer {
                hidden.push(tensor.clone());
            }
        };
        text_embeddings.push(head.text_embedding_watched(&ids, text.len(), watch)?);
        padded.push(ids);
    }
    let masks: Vec<Vec<u32>> =
        texts.iter().map(|text| (0..longest).map(|i| u32::from(i < text.len())).collect()).collect();
    let text_embeddings = Tensor::stack(&text_embeddings, 0)?;
    itc.id_rows("input_ids", &padded)?;
    itc.id_rows("attention_mask", &masks)?;
    itc.put("qformer_text_out", Tensor::cat(&hidden, 0)?)?;
    let scores = embeddings.broadcast_matmul(&text_embeddings.t()?)?.max(1)?;
    itc.put("logits_per_image", scores)?;
    itc.put("text_embeds", text_embeddings)?;

    let mut logits = Vec::new();
    for picture in &features {
        for text in &texts {
            logits.push(head.match_logits(&picture.squeeze(0)?, text)?);
        }
    }
    let logits = if logits.is_empty() {
        Tensor::zeros((0, 2), DType::F32, &Device::Cpu)?
    } else {
        Tensor::stack(&logits, 0)?
    };
    let logits = logits.reshape((pixels.len(), texts.len(), 2))?;
    let mut itm = tensors.below("itm");
    itm.put("probs", softmax_last_dim(&logits)?)?;
    itm.put("logits", logits)?;
    Ok(())
}
