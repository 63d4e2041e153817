//! Two files of traced tensors side by side.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Result, Tensor, safetensors};

use crate::pack::WeightTypes;

/// Largest accepted distances.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Of logits.
    pub logits: f32,
    /// Of everything else; token ids must be equal.
    pub others: f32,
}

impl Tolerance {
    /// What the reference itself differs by from one kind of CPU to another.
    pub const EXACT: Self = Self { logits: 2e-4, others: 5e-5 };
    /// For devices that multiply in other orders or with fewer digits.
    pub const LOOSE: Self = Self { logits: 2e-2, others: 5e-3 };
    /// For weights that were rounded, which moves every number a little: only their tokens are the reference's.
    pub const ROUNDED: Self = Self { logits: 0.5, others: 0.5 };

    /// What a trace with matrices of these types on `device` may differ by.
    pub fn of(types: WeightTypes, device: &Device) -> Self {
        if types != WeightTypes::F32 {
            Self::ROUNDED
        } else if device.is_cpu() {
            Self::EXACT
        } else {
            Self::LOOSE
        }
    }
}

/// How two files compare.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Tensors that were compared.
    pub compared: usize,
    /// What is not as expected, as `name: why`, in the order of names.
    pub failures: Vec<String>,
    /// The largest distance of any float, and whose it is.
    pub worst: Option<(String, f32)>,
}

/// Compares the tensors of `found` with those of `expected` whose names `belongs` picks. Positions that an attention mask
/// of the same run rules out mean nothing, and are left out.
pub fn compare(
    found: &Path,
    expected: &Path,
    tolerance: Tolerance,
    belongs: impl Fn(&str) -> bool,
) -> Result<Comparison> {
    let found = safetensors::load(found, &Device::Cpu)?;
    let all = safetensors::load(expected, &Device::Cpu)?;
    let mut names: Vec<&String> = all.keys().filter(|name| belongs(name)).collect();
    names.sort();
    let mut comparison = Comparison { compared: names.len(), ..Comparison::default() };
    for name in names {
        let failure = match found.get(name) {
            None => Some("it is missing".to_owned()),
            Some(tensor) => {
                let distance = distance(name, &all[name], tensor, &all)?;
                comparison.note(name, distance, tolerance)
            }
        };
        comparison.failures.extend(failure.map(|why| format!("{name}: {why}")));
    }
    Ok(comparison)
}

enum Distance {
    Shape(String),
    Ids(bool),
    Floats(f32),
}

impl Comparison {
    fn note(&mut self, name: &str, distance: Distance, tolerance: Tolerance) -> Option<String> {
        match distance {
            Distance::Shape(why) => Some(why),
            Distance::Ids(equal) => (!equal).then(|| "the ids differ".to_owned()),
            Distance::Floats(largest) => {
                // A NaN is the worst of all, and no limit holds it.
                let is_worse =
                    self.worst.as_ref().is_none_or(|(_, worst)| largest > *worst || largest.is_nan());
                if is_worse {
                    self.worst = Some((name.to_owned(), largest));
                }
                let limit = if name.contains("logits") { tolerance.logits } else { tolerance.others };
                (largest.is_nan() || largest > limit).then(|| format!("off by {largest}"))
            }
        }
    }
}

fn distance(
    name: &str,
    expected: &Tensor,
    found: &Tensor,
    all: &HashMap<String, Tensor>,
) -> Result<Distance> {
    if (expected.dims(), expected.dtype()) != (found.dims(), found.dtype()) {
        return Ok(Distance::Shape(format!("{expected:?} was expected, not {found:?}")));
    }
    if expected.dtype() != DType::F32 {
        let flat = |tensor: &Tensor| tensor.flatten_all()?.to_dtype(DType::I64)?.to_vec1::<i64>();
        return Ok(Distance::Ids(flat(expected)? == flat(found)?));
    }
    let mut distance = (expected - found)?.abs()?;
    let mask = name.rsplit_once('/').and_then(|(run, _)| all.get(&format!("{run}/lm_attention_mask")));
    if let Some(mask) = mask
        && mask.rank() + 1 == distance.rank()
    {
        let mask = mask.to_dtype(DType::F32)?.unsqueeze(mask.rank())?;
        distance = distance.broadcast_mul(&mask)?;
    }
    let values = distance.flatten_all()?.to_vec1::<f32>()?;
    let larger = |largest: f32, value: f32| if value.is_nan() { value } else { largest.max(value) };
    Ok(Distance::Floats(values.into_iter().fold(0.0, larger)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn file(folder: &Path, name: &str, tensors: &[(&str, Tensor)]) -> std::path::PathBuf {
        let path = folder.join(name);
        let tensors: HashMap<_, _> = tensors.iter().map(|(name, tensor)| (*name, tensor.clone())).collect();
        safetensors::save(&tensors, &path).unwrap();
        path
    }

    fn floats(values: &[f32]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    #[test]
    fn whatever_is_not_as_expected_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let ids = |id: u32| Tensor::new(&[id], &Device::Cpu).unwrap();
        let expected = [
            ("a/near", floats(&[1.0, 2.0])),
            ("a/logits", floats(&[1.0])),
            ("a/far", floats(&[1.0])),
            ("a/noise", floats(&[1.0])),
            ("a/ids", ids(7)),
            ("a/missing", floats(&[1.0])),
            ("a/shape", floats(&[1.0])),
            ("b/other", floats(&[1.0])),
        ];
        let found = [
            ("a/near", floats(&[1.0, 2.000_01])),
            ("a/logits", floats(&[1.0001])),
            ("a/far", floats(&[1.0001])),
            ("a/noise", floats(&[f32::NAN])),
            ("a/ids", ids(8)),
            ("a/shape", floats(&[1.0, 1.0])),
        ];
        let (expected, found) =
            (file(folder.path(), "expected", &expected), file(folder.path(), "found", &found));
        let comparison = compare(&found, &expected, Tolerance::EXACT, |name| name.starts_with("a/")).unwrap();
        assert_eq!(comparison.compared, 7);
        let named: Vec<&str> =
            comparison.failures.iter().map(|failure| failure.split(':').next().unwrap()).collect();
        assert_eq!(named, ["a/far", "a/ids", "a/missing", "a/noise", "a/shape"]);
        assert!(comparison.worst.is_some_and(|(name, worst)| name == "a/noise" && worst.is_nan()));
    }
}
