//! Published tensor names, translated to the canonical names of the model.
//!
//! Translation is by spelling alone; whether a name is wanted and has the right shape is for the plan
//! to say.

use serde::{Deserialize, Serialize};

/// Which of the published files a tensor comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The vision tower (`eva_vit_g.pth`).
    Vision,
    /// Q-Former and `ln_vision` (`blip2_pretrained_flant5xxl.pth`).
    Qformer,
    /// Base weights of the language model (the `phi-2` folder).
    Language,
    /// The overlay that TinyGPT-V trained (`TinyGPT-V_for_StageN.pth`).
    Stage,
    /// Contrastive and matching heads (`blip2-itm-vit-g`).
    Retrieval,
}

/// What a published name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// A tensor of the model, or a part from which one is put together.
    Weight(String),
    /// One half of a low-rank change to the module.
    Lora { module: String, half: LoraHalf },
    /// Known, and known not to be needed.
    Unneeded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LoraHalf {
    A,
    B,
}

/// Translate one name.
pub(super) fn meaning(role: Role, key: &str) -> Meaning {
    if key.ends_with(".position_ids") || key.ends_with(".rotary_emb.inv_freq") {
        return Meaning::Unneeded;
    }
    match role {
        Role::Vision => vision(key),
        Role::Qformer => qformer(key),
        Role::Language => Meaning::Weight(language(key)),
        Role::Stage => stage(key),
        Role::Retrieval => retrieval(key),
    }
}

/// Spellings in which files of the same role differ.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialect {
    /// transformers' names, not LAVIS's
    pub(super) hugging_face: bool,
    /// the language model lies inside peft's wrapper
    pub(super) wrapped: bool,
}

/// The name a canonical tensor has in the file of `role`, for messages.
pub(super) fn published(role: Role, name: &str, dialect: Dialect) -> String {
    match role {
        Role::Vision => name.strip_prefix("visual_encoder.").unwrap_or(name).to_owned(),
        Role::Language => name.strip_prefix("llama_model.").unwrap_or(name).to_owned(),
        Role::Stage if dialect.wrapped => name.replacen("llama_model.", WRAPPED, 1),
        Role::Qformer | Role::Stage => name.to_owned(),
        Role::Retrieval => {
            let name = name.strip_prefix("itc.").unwrap_or(name);
            if dialect.hugging_face { to_hugging_face(name) } else { name.to_owned() }
        }
    }
}

fn vision(key: &str) -> Meaning {
    let key = key.strip_prefix("visual_encoder.").unwrap_or(key);
    // the classifier that EVA-CLIP was pretrained with
    if ["norm.", "fc_norm.", "head.", "mask_token"].iter().any(|prefix| key.starts_with(prefix)) {
        return Meaning::Unneeded;
    }
    Meaning::Weight(format!("visual_encoder.{key}"))
}

fn qformer(key: &str) -> Meaning {
    if ["t5_proj.", "opt_proj.", "Qformer.cls."].iter().any(|prefix| key.starts_with(prefix)) {
        return Meaning::Unneeded;
    }
    Meaning::Weight(key.to_owned())
}

/// All three layouts of Phi-2 end in transformers' names; the attention matrices keep their own
/// (`query_key_value`, `q_proj`…, `Wqkv`), because their rows are ordered differently.
fn language(key: &str) -> String {
    let key = key.strip_prefix("llama_model.").unwrap_or(key);
    let renamed = match key {
        "transformer.embd.wte.weight" | "layers.0.wte.weight" => "model.embed_tokens.weight".to_owned(),
        _ => original_phi(key).unwrap_or_else(|| key.to_owned()),
    };
    format!("llama_model.{renamed}")
}

/// Names of the original Phi-2 (`transformer.h.N`, head as `lm_head.ln` and `lm_head.linear`).
fn original_phi(key: &str) -> Option<String> {
    if let Some(rest) = key.strip_prefix("lm_head.ln.") {
        return Some(format!("model.final_layernorm.{rest}"));
    }
    if let Some(rest) = key.strip_prefix("lm_head.linear.") {
        return Some(format!("lm_head.{rest}"));
    }
    let (layer, rest) = key.strip_prefix("transformer.h.")?.split_once('.')?;
    let rest = if let Some(part) = rest.strip_prefix("ln.") {
        format!("input_layernorm.{part}")
    } else if let Some(part) = rest.strip_prefix("mixer.out_proj.") {
        format!("self_attn.dense.{part}")
    } else if let Some(part) = rest.strip_prefix("mixer.") {
        format!("self_attn.{part}")
    } else {
        rest.to_owned()
    };
    Some(format!("model.layers.{layer}.{rest}"))
}

/// peft wraps the language model; without LoRA (stage 1) the wrapper is absent.
pub(super) const WRAPPED: &str = "llama_model.base_model.model.";
/// peft's wrapper in a file that peft wrote.
const PEFT: &str = "base_model.model.";

fn stage(key: &str) -> Meaning {
    let plain = match key.strip_prefix(WRAPPED) {
        Some(rest) => format!("llama_model.{rest}"),
        None => key.to_owned(),
    };
    for (mark, half) in [(".lora_A.", LoraHalf::A), (".lora_B.", LoraHalf::B)] {
        if let Some((module, "weight" | "default.weight")) = plain.split_once(mark) {
            return Meaning::Lora { module: module.to_owned(), half };
        }
    }
    Meaning::Weight(plain.replace(".base_layer.", "."))
}

/// Translate a name in an adapter: peft's, with or without the whole model around the language model, or a stage file's.
pub(crate) fn adapter(key: &str) -> Meaning {
    let plain = key.strip_prefix(PEFT).unwrap_or(key);
    let plain = plain.replace(".modules_to_save.", ".").replace(".default.", ".");
    let bare = ["model.", "lm_head."].iter().any(|root| plain.starts_with(root));
    meaning(Role::Stage, &if bare { format!("llama_model.{plain}") } else { plain })
}

fn retrieval(key: &str) -> Meaning {
    // the captioning head and the temperature of BLIP-2's first stage
    if key.starts_with("Qformer.cls.") || key == "temp" {
        return Meaning::Unneeded;
    }
    Meaning::Weight(format!("itc.{}", from_hugging_face(key)))
}

/// Spelling by which a file of retrieval heads shows that transformers wrote it.
pub(super) fn is_hugging_face(key: &str) -> bool {
    key.starts_with("qformer.") || key.starts_with("vision_model.") || key.starts_with("vision_projection.")
}

/// Pairs of (LAVIS, transformers) beginnings, the more special ones first.
const PREFIXES: [(&str, &str); 13] = [
    ("visual_encoder.cls_token", "vision_model.embeddings.class_embedding"),
    ("visual_encoder.pos_embed", "vision_model.embeddings.position_embedding"),
    ("visual_encoder.patch_embed.proj.", "vision_model.embeddings.patch_embedding."),
    ("visual_encoder.blocks.", "vision_model.encoder.layers."),
    ("ln_vision.", "vision_model.post_layernorm."),
    ("Qformer.bert.embeddings.LayerNorm.", "qformer.layernorm."),
    ("Qformer.bert.embeddings.word_embeddings.", "embeddings.word_embeddings."),
    ("Qformer.bert.embeddings.position_embeddings.", "embeddings.position_embeddings."),
    ("Qformer.bert.encoder.", "qformer.encoder."),
    ("vision_proj.", "vision_projection."),
    ("text_proj.", "text_projection."),
    ("itm_head.", "itm_head."),
    ("query_tokens", "query_tokens"),
];

/// Pairs of (LAVIS, transformers) parts inside the vision tower and inside the Q-Former.
const VISION_PARTS: [(&str, &str); 4] = [
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
    (".attn.proj.", ".self_attn.projection."),
    (".attn.", ".self_attn."),
];
const QFORMER_PARTS: [(&str, &str); 2] =
    [(".attention.self.", ".attention.attention."), (".crossattention.self.", ".crossattention.attention.")];

fn from_hugging_face(key: &str) -> String {
    for (lavis, hugging_face) in PREFIXES {
        if let Some(rest) = key.strip_prefix(hugging_face) {
            return rename_parts(&format!("{lavis}{rest}"), |(lavis, hugging_face)| (hugging_face, lavis));
        }
    }
    key.to_owned()
}

fn to_hugging_face(name: &str) -> String {
    // transformers keeps one bias of three parts where EVA keeps two
    if let Some(block) = name.strip_suffix(".attn.q_bias").or_else(|| name.strip_suffix(".attn.v_bias")) {
        return to_hugging_face(&format!("{block}.attn.qkv.bias"));
    }
    for (lavis, hugging_face) in PREFIXES {
        if let Some(rest) = name.strip_prefix(lavis) {
            return rename_parts(&format!("{hugging_face}{rest}"), |pair| pair);
        }
    }
    name.to_owned()
}

type Part = (&'static str, &'static str);

fn rename_parts(name: &str, direction: impl Fn(Part) -> Part) -> String {
    let vision = name.starts_with("visual_encoder.") || name.starts_with("vision_model.");
    let parts: &[Part] = if vision { &VISION_PARTS } else { &QFORMER_PARTS };
    for &pair in parts {
        let (from, to) = direction(pair);
        if name.contains(from) {
            return name.replacen(from, to, 1);
        }
    }
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIALECT: Dialect = Dialect { hugging_face: true, wrapped: true };

    fn weight(role: Role, key: &str) -> String {
        match meaning(role, key) {
            Meaning::Weight(name) => name,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn phi_names_of_all_three_layouts_meet() {
        for (key, name) in [
            ("model.layers.3.mlp.fc1.bias", "llama_model.model.layers.3.mlp.fc1.bias"),
            ("transformer.h.3.mlp.fc1.bias", "llama_model.model.layers.3.mlp.fc1.bias"),
            ("transformer.h.0.mixer.Wqkv.weight", "llama_model.model.layers.0.self_attn.Wqkv.weight"),
            ("transformer.h.0.mixer.out_proj.bias", "llama_model.model.layers.0.self_attn.dense.bias"),
            ("transformer.h.31.ln.weight", "llama_model.model.layers.31.input_layernorm.weight"),
            ("transformer.embd.wte.weight", "llama_model.model.embed_tokens.weight"),
            ("lm_head.ln.bias", "llama_model.model.final_layernorm.bias"),
            ("lm_head.linear.weight", "llama_model.lm_head.weight"),
            ("lm_head.weight", "llama_model.lm_head.weight"),
        ] {
            assert_eq!(weight(Role::Language, key), name);
        }
    }

    #[test]
    fn lora_names_old_and_new() {
        let module = "llama_model.model.layers.7.self_attn.dense".to_owned();
        for key in ["lora_A.weight", "lora_A.default.weight"] {
            let key = format!("llama_model.base_model.model.model.layers.7.self_attn.dense.{key}");
            assert_eq!(
                meaning(Role::Stage, &key),
                Meaning::Lora { module: module.clone(), half: LoraHalf::A }
            );
        }
        let base = "llama_model.base_model.model.model.layers.7.self_attn.dense.base_layer.bias";
        assert_eq!(weight(Role::Stage, base), format!("{module}.bias"));
        let stage_1 = "llama_model.model.layers.7.post_layernorm.weight";
        assert_eq!(weight(Role::Stage, stage_1), stage_1);
    }

    #[test]
    fn adapters_are_told_in_pefts_words_and_in_the_references() {
        let module = "llama_model.model.layers.7.self_attn.q_proj".to_owned();
        for key in [
            "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight",
            "base_model.model.llama_model.model.layers.7.self_attn.q_proj.lora_A.default.weight",
            "llama_model.base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight",
        ] {
            assert_eq!(adapter(key), Meaning::Lora { module: module.clone(), half: LoraHalf::A });
        }
        let norm = Meaning::Weight("llama_model.model.final_layernorm.weight".to_owned());
        assert_eq!(adapter("base_model.model.model.final_layernorm.weight"), norm);
        assert_eq!(adapter("base_model.model.model.final_layernorm.modules_to_save.default.weight"), norm);
        assert_eq!(adapter("llama_proj.bias"), Meaning::Weight("llama_proj.bias".to_owned()));
    }

    #[test]
    fn retrieval_names_translate_both_ways() {
        for (hugging_face, lavis) in [
            (
                "vision_model.encoder.layers.4.self_attn.projection.weight",
                "visual_encoder.blocks.4.attn.proj.weight",
            ),
            ("vision_model.encoder.layers.4.self_attn.qkv.weight", "visual_encoder.blocks.4.attn.qkv.weight"),
            ("vision_model.encoder.layers.4.layer_norm2.bias", "visual_encoder.blocks.4.norm2.bias"),
            ("vision_model.encoder.layers.4.mlp.fc2.bias", "visual_encoder.blocks.4.mlp.fc2.bias"),
            ("vision_model.embeddings.patch_embedding.bias", "visual_encoder.patch_embed.proj.bias"),
            ("vision_model.embeddings.class_embedding", "visual_encoder.cls_token"),
            ("vision_model.post_layernorm.weight", "ln_vision.weight"),
            ("embeddings.word_embeddings.weight", "Qformer.bert.embeddings.word_embeddings.weight"),
            ("qformer.layernorm.bias", "Qformer.bert.embeddings.LayerNorm.bias"),
            (
                "qformer.encoder.layer.1.attention.attention.key.bias",
                "Qformer.bert.encoder.layer.1.attention.self.key.bias",
            ),
            (
                "qformer.encoder.layer.0.crossattention.attention.query.weight",
                "Qformer.bert.encoder.layer.0.crossattention.self.query.weight",
            ),
            (
                "qformer.encoder.layer.0.crossattention.output.dense.weight",
                "Qformer.bert.encoder.layer.0.crossattention.output.dense.weight",
            ),
            ("text_projection.bias", "text_proj.bias"),
            ("itm_head.weight", "itm_head.weight"),
            ("query_tokens", "query_tokens"),
        ] {
            assert_eq!(weight(Role::Retrieval, hugging_face), format!("itc.{lavis}"));
            assert_eq!(weight(Role::Retrieval, lavis), format!("itc.{lavis}"));
            assert_eq!(published(Role::Retrieval, &format!("itc.{lavis}"), DIALECT), hugging_face);
        }
    }
}
