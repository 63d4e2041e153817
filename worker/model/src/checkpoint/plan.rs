//! From files full of names to a recipe for every tensor of the model, by shapes alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::names::{self, Dialect, LoraHalf, Meaning, Role};
use super::source::{TensorHeader, TensorSource};
use super::{Accounting, CheckpointError, FileAccount, LoraConfig, Problem, Problems};
use crate::chain;
use crate::{ModelConfig, TensorKind, TensorSpec, tensor_inventory};

/// The opened files of one checkpoint.
#[derive(Clone)]
pub struct Sources {
    /// `eva_vit_g.pth`
    pub vision: Arc<dyn TensorSource>,
    /// `blip2_pretrained_flant5xxl.pth`
    pub qformer: Arc<dyn TensorSource>,
    /// the `phi-2` folder
    pub language: Arc<dyn TensorSource>,
    /// `TinyGPT-V_for_StageN.pth`
    pub stage: Arc<dyn TensorSource>,
    /// `blip2-itm-vit-g`, if the bundle shall search
    pub retrieval: Option<Arc<dyn TensorSource>>,
}

impl Sources {
    pub(super) fn get(&self, role: Role) -> Option<&Arc<dyn TensorSource>> {
        match role {
            Role::Vision => Some(&self.vision),
            Role::Qformer => Some(&self.qformer),
            Role::Language => Some(&self.language),
            Role::Stage => Some(&self.stage),
            Role::Retrieval => self.retrieval.as_ref(),
        }
    }
}

/// What the files are expected to hold, beyond the model's dimensions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StageExpectation {
    /// 1 to 4
    pub number: u8,
    /// the low-rank changes of stages 2 to 4
    pub lora: LoraConfig,
}

/// A tensor in one of the files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Origin {
    pub(super) role: Role,
    pub(super) key: String,
}

/// How the numbers of one tensor come about.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Recipe {
    /// as they are in a file
    Copy(Origin),
    /// the same number everywhere
    Fill(f32),
    /// a third of the rows of a tensor; `zeros` names the third that must hold zeros only
    Third { of: Origin, index: usize, zeros: usize },
    /// q, k and v of all heads, interleaved head by head
    Interleave { parts: [Rows; 3] },
}

/// Consecutive rows of a tensor in a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rows {
    pub(super) of: Origin,
    pub(super) first: usize,
}

/// `W += scaling · B A`
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LowRank {
    pub(super) a: Origin,
    pub(super) b: Origin,
    pub(super) rank: usize,
    pub(super) scaling: f64,
}

/// One tensor of the model.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TensorPlan {
    pub(super) shape: Vec<usize>,
    pub(super) kind: TensorKind,
    pub(super) recipe: Recipe,
    pub(super) low_rank: Option<LowRank>,
}

/// A recipe for every tensor.
#[derive(Debug)]
pub(super) struct Plan {
    /// names in the order in which the model loads them
    pub(super) order: Vec<String>,
    pub(super) tensors: BTreeMap<String, TensorPlan>,
    pub(super) accounting: Accounting,
}

/// Resolve every tensor that a model of these dimensions needs, or say which ones cannot be.
pub(super) fn plan(
    sources: &Sources,
    config: &ModelConfig,
    stage: StageExpectation,
) -> Result<Plan, CheckpointError> {
    let inventory = tensor_inventory(config)
        .map_err(|error| CheckpointError::Config { file: "configuration".into(), reason: chain(&error) })?;
    let mut planner = Planner::new(sources, config, stage);
    let mut tensors = BTreeMap::new();
    let mut order = Vec::with_capacity(inventory.len());
    for spec in inventory {
        if let Some(tensor) = planner.tensor(&spec) {
            tensors.insert(spec.name.clone(), tensor);
        }
        order.push(spec.name);
    }
    planner.refuse_stray_lora();
    if !planner.problems.is_empty() {
        return Err(CheckpointError::Incomplete(Problems(planner.problems)));
    }
    Ok(Plan { order, tensors, accounting: planner.account() })
}

fn dialect_of(sources: &Sources) -> Dialect {
    let keys =
        |source: &Arc<dyn TensorSource>, test: fn(&str) -> bool| source.headers().keys().any(|key| test(key));
    Dialect {
        hugging_face: sources.retrieval.as_ref().is_some_and(|source| keys(source, names::is_hugging_face)),
        wrapped: keys(&sources.stage, |key| key.starts_with(names::WRAPPED)),
    }
}

/// Norm weights of the language model: trained in every stage.
fn is_trained_norm(name: &str) -> bool {
    name.starts_with("llama_model.") && name.ends_with("layernorm.weight")
}

/// What stands in the way has been written down already.
struct Noted;

struct Planner<'a> {
    sources: &'a Sources,
    config: &'a ModelConfig,
    stage: StageExpectation,
    /// (file, canonical or part name) → name in the file
    weights: BTreeMap<(Role, String), String>,
    /// (module, half) → name in the stage file
    lora: BTreeMap<(String, LoraHalf), String>,
    lora_used: BTreeSet<String>,
    used: BTreeSet<Origin>,
    stage_has_qformer: bool,
    dialect: Dialect,
    problems: Vec<Problem>,
}

const ROLES: [Role; 5] = [Role::Vision, Role::Qformer, Role::Language, Role::Stage, Role::Retrieval];

impl<'a> Planner<'a> {
    fn new(sources: &'a Sources, config: &'a ModelConfig, stage: StageExpectation) -> Self {
        let mut weights = BTreeMap::new();
        let mut lora = BTreeMap::new();
        for role in ROLES {
            for key in sources.get(role).into_iter().flat_map(|source| source.headers().keys()) {
                match names::meaning(role, key) {
                    Meaning::Weight(name) => drop(weights.insert((role, name), key.clone())),
                    Meaning::Lora { module, half } => drop(lora.insert((module, half), key.clone())),
                    Meaning::Unneeded => {}
                }
            }
        }
        let stage_has_qformer = weights.keys().any(|(role, name)| {
            *role == Role::Stage && (name.starts_with("Qformer.") || name == "query_tokens")
        });
        Self {
            sources,
            config,
            stage,
            weights,
            lora,
            lora_used: BTreeSet::new(),
            used: BTreeSet::new(),
            stage_has_qformer,
            dialect: dialect_of(sources),
            problems: Vec::new(),
        }
    }

    fn tensor(&mut self, spec: &TensorSpec) -> Option<TensorPlan> {
        // both are looked at before either fails, so that one cause makes one problem
        let recipe = self.recipe(spec);
        let low_rank = match spec.name.strip_suffix(".weight") {
            Some(module) if self.is_adapted(module) => self.low_rank(module, &spec.shape).map(Some),
            _ => Some(None),
        };
        Some(TensorPlan { shape: spec.shape.clone(), kind: spec.kind, recipe: recipe?, low_rank: low_rank? })
    }

    fn recipe(&mut self, spec: &TensorSpec) -> Option<Recipe> {
        let roles = self.homes(&spec.name);
        for &role in roles {
            if let Some(origin) = self.find(role, &spec.name) {
                return self.checked(origin, &spec.shape).map(Recipe::Copy);
            }
            match self.put_together(role, spec) {
                Ok(Some(recipe)) => return Some(recipe),
                Ok(None) => {}
                Err(Noted) => return None,
            }
        }
        // published nowhere: the reference creates them as zeros and never trains them
        if spec.name.ends_with(".q_layernorm.bias") || spec.name.ends_with(".k_layernorm.bias") {
            return Some(Recipe::Fill(0.0));
        }
        self.missing(roles[roles.len() - 1], &spec.name);
        None
    }

    /// Files that may hold a tensor, in order of precedence.
    fn homes(&self, name: &str) -> &'static [Role] {
        if name.starts_with("itc.") {
            &[Role::Retrieval]
        } else if name.starts_with("visual_encoder.") {
            &[Role::Stage, Role::Vision]
        } else if name.starts_with("llama_proj") || is_trained_norm(name) {
            // every stage file holds these; falling back to the base would be silently wrong
            &[Role::Stage]
        } else if name.starts_with("llama_model.") {
            &[Role::Stage, Role::Language]
        } else if self.stage_has_qformer && !name.starts_with("ln_vision.") {
            // trained as a whole or not at all
            &[Role::Stage]
        } else {
            &[Role::Stage, Role::Qformer]
        }
    }

    fn find(&self, role: Role, name: &str) -> Option<Origin> {
        let key = self.weights.get(&(role, name.to_owned()))?.clone();
        Some(Origin { role, key })
    }

    /// Tensors that some layouts keep in parts; `None` if this file has no such parts.
    fn put_together(&mut self, role: Role, spec: &TensorSpec) -> Result<Option<Recipe>, Noted> {
        if let Some((block, part)) = spec.name.rsplit_once(".attn.")
            && let Some(index) = ["q_bias", "k_bias", "v_bias"].iter().position(|name| *name == part)
        {
            let Some(of) = self.find(role, &format!("{block}.attn.qkv.bias")) else { return Ok(None) };
            let shape: Vec<usize> = spec.shape.iter().map(|size| size * 3).collect();
            let of = self.checked(of, &shape).ok_or(Noted)?;
            return Ok(Some(Recipe::Third { of, index, zeros: 1 }));
        }
        match spec.name.split_once(".query_key_value.") {
            Some((attention, part)) => self.interleaved(role, attention, part, &spec.shape),
            None => Ok(None),
        }
    }

    /// The fused attention tensor from the original layout's one or the split layout's three.
    fn interleaved(
        &mut self,
        role: Role,
        attention: &str,
        part: &str,
        shape: &[usize],
    ) -> Result<Option<Recipe>, Noted> {
        let mut third = shape.to_vec();
        third[0] /= 3;
        if let Some(of) = self.find(role, &format!("{attention}.Wqkv.{part}")) {
            let of = self.checked(of, shape).ok_or(Noted)?;
            let parts = [0, 1, 2].map(|index| Rows { of: of.clone(), first: index * third[0] });
            return Ok(Some(Recipe::Interleave { parts }));
        }
        let names = ["q_proj", "k_proj", "v_proj"].map(|name| format!("{attention}.{name}.{part}"));
        if names.iter().all(|name| self.find(role, name).is_none()) {
            return Ok(None);
        }
        // all three are looked at, so that every problem is told at once
        let parts = names.map(|name| {
            let Some(of) = self.find(role, &name) else {
                self.missing(role, &name);
                return None;
            };
            self.checked(of, &third).map(|of| Rows { of, first: 0 })
        });
        match parts {
            [Some(q), Some(k), Some(v)] => Ok(Some(Recipe::Interleave { parts: [q, k, v] })),
            _ => Err(Noted),
        }
    }

    /// The origin, if its shape is the wanted one; else a problem is noted.
    fn checked(&mut self, origin: Origin, wanted: &[usize]) -> Option<Origin> {
        let source = self.sources.get(origin.role)?;
        let header: &TensorHeader = source.headers().get(&origin.key)?;
        if header.shape != wanted {
            self.problems.push(Problem::Misshaped {
                file: source.file_of(&origin.key).to_owned(),
                found: header.shape.clone(),
                wanted: wanted.to_vec(),
                key: origin.key,
            });
            return None;
        }
        self.used.insert(origin.clone());
        Some(origin)
    }

    fn missing(&mut self, role: Role, name: &str) {
        let expected = names::published(role, name, self.dialect);
        let file = self.sources.get(role).map_or("", |source| source.label()).to_owned();
        self.problems.push(Problem::Missing { name: name.to_owned(), expected, file });
    }

    /// Whether a low-rank change belongs to this module.
    fn is_adapted(&self, module: &str) -> bool {
        let present =
            [LoraHalf::A, LoraHalf::B].iter().any(|half| self.lora.contains_key(&(module.to_owned(), *half)));
        let expected = self.stage.number >= 2
            && self.stage.lora.rank > 0
            && module.starts_with("llama_model.model.layers.")
            && (module.ends_with(".self_attn.query_key_value") || module.ends_with(".self_attn.dense"));
        present || expected
    }

    fn low_rank(&mut self, module: &str, shape: &[usize]) -> Option<LowRank> {
        let [outputs, inputs] = *shape else { return None };
        let rank = self.stage.lora.rank;
        let a = self.lora_half(module, LoraHalf::A, &[rank, inputs]);
        let b = self.lora_half(module, LoraHalf::B, &[outputs, rank]);
        Some(LowRank { a: a?, b: b?, rank, scaling: self.stage.lora.scaling() })
    }

    fn lora_half(&mut self, module: &str, half: LoraHalf, wanted: &[usize]) -> Option<Origin> {
        let Some(key) = self.lora.get(&(module.to_owned(), half)).cloned() else {
            self.missing(Role::Stage, &format!("{module}.lora_{half:?}.weight"));
            return None;
        };
        self.lora_used.insert(key.clone());
        self.checked(Origin { role: Role::Stage, key }, wanted)
    }

    /// A change that is left out would change every answer, so it is an error, not a note.
    fn refuse_stray_lora(&mut self) {
        let stray: Vec<String> =
            self.lora.values().filter(|key| !self.lora_used.contains(*key)).cloned().collect();
        for key in stray {
            self.problems.push(Problem::Unusable {
                key,
                file: self.sources.stage.label().to_owned(),
                reason: "changes a layer that this model does not have or does not adapt".into(),
            });
        }
    }

    /// Every tensor of every file in exactly one list.
    fn account(&self) -> Accounting {
        let mut files = Vec::new();
        for role in ROLES {
            let Some(source) = self.sources.get(role) else { continue };
            let mut account = FileAccount::new(role, source.label());
            for key in source.headers().keys() {
                let list = match names::meaning(role, key) {
                    _ if self.used.contains(&Origin { role, key: key.clone() }) => {
                        account.used += 1;
                        continue;
                    }
                    Meaning::Unneeded => &mut account.ignored,
                    Meaning::Weight(name) if self.is_surplus(&name) => &mut account.ignored,
                    Meaning::Weight(name) if self.is_replaced(role, &name) => &mut account.replaced,
                    Meaning::Weight(name) if self.is_shared_vision(&name) => {
                        account.used += 1;
                        continue;
                    }
                    Meaning::Weight(_) | Meaning::Lora { .. } => &mut account.unknown,
                };
                list.push(key.clone());
            }
            files.push(account);
        }
        Accounting { files }
    }

    /// Blocks of the vision tower behind the last one in use.
    fn is_surplus(&self, name: &str) -> bool {
        let block = name
            .strip_prefix("itc.")
            .unwrap_or(name)
            .strip_prefix("visual_encoder.blocks.")
            .and_then(|rest| rest.split_once('.'))
            .and_then(|(number, _)| number.parse::<usize>().ok());
        block.is_some_and(|block| block >= self.config.vision.depth)
    }

    /// Base weights over which the stage file has its own.
    fn is_replaced(&self, role: Role, name: &str) -> bool {
        role != Role::Stage && self.weights.contains_key(&(Role::Stage, name.to_owned()))
    }

    /// A second copy of the caption path's vision tower, compared and then left out.
    fn is_shared_vision(&self, name: &str) -> bool {
        self.config.retrieval.as_ref().is_some_and(|retrieval| retrieval.shared_vision)
            && name.strip_prefix("itc.").is_some_and(|name| {
                name.ends_with(".attn.qkv.bias") && name.starts_with("visual_encoder.")
                    || self.weights.contains_key(&(Role::Vision, name.to_owned()))
            })
    }
}
