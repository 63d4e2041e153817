//! AdamW, and how large its steps are.

use candle_core::{Result, Tensor};

use super::learning::Trained;

/// Share of the old mean of gradients that a step keeps.
const BETA_1: f64 = 0.9;
/// Share of the old mean of squared gradients that a step keeps.
const BETA_2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// The size of steps: rises in a straight line, then falls as half a cosine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Of the largest step.
    pub rate: f64,
    /// Of the last step, as a share of the largest.
    pub last: f64,
    /// Steps until the largest.
    pub warm_up: usize,
    /// Steps in all.
    pub steps: usize,
}

impl Schedule {
    /// Size of a step, counted from 0.
    pub fn rate(&self, step: usize) -> f64 {
        if step < self.warm_up {
            return self.rate * (step + 1) as f64 / self.warm_up as f64;
        }
        let left = self.steps.saturating_sub(self.warm_up).max(1);
        let done = ((step - self.warm_up) as f64 / left as f64).min(1.0);
        let cosine = f64::midpoint(1.0, (std::f64::consts::PI * done).cos());
        self.rate * (self.last + (1.0 - self.last) * cosine)
    }
}

/// AdamW with its memory, which can be saved.
#[derive(Debug)]
pub struct AdamW {
    pub(super) means: Vec<Tensor>,
    pub(super) squares: Vec<Tensor>,
    pub(super) updates: usize,
}

impl AdamW {
    pub(super) fn new(trained: &[Trained]) -> Result<Self> {
        let zeros = || trained.iter().map(|trained| trained.var.zeros_like()).collect::<Result<Vec<_>>>();
        Ok(Self { means: zeros()?, squares: zeros()?, updates: 0 })
    }

    /// Moves every variable against its gradient times `shorten`.
    pub(super) fn step(
        &mut self,
        trained: &[Trained],
        gradients: &[Tensor],
        shorten: f64,
        rate: f64,
        weight_decay: f64,
    ) -> Result<()> {
        self.updates += 1;
        let unbias = |beta: f64| 1.0 / (1.0 - beta.powi(self.updates as i32));
        for (index, (Trained { name, var, pace }, gradient)) in trained.iter().zip(gradients).enumerate() {
            let rate = rate * pace;
            let gradient = (gradient * shorten)?;
            let mean = ((&self.means[index] * BETA_1)? + (&gradient * (1.0 - BETA_1))?)?;
            let square = ((&self.squares[index] * BETA_2)? + (gradient.sqr()? * (1.0 - BETA_2))?)?;
            let divisor = ((&square * unbias(BETA_2))?.sqrt()? + EPSILON)?;
            let move_by = ((&mean * unbias(BETA_1))? / divisor)?;
            let decay = if name.contains(".lora_") { 1.0 - rate * weight_decay } else { 1.0 };
            var.set(&((var.as_tensor() * decay)? - (move_by * rate)?)?)?;
            // Detached: a mean must not hold on to the graph of the step that it was made in.
            (self.means[index], self.squares[index]) = (mean.detach(), square.detach());
        }
        Ok(())
    }
}

/// Euclidean length of all gradients together.
pub(super) fn length(gradients: &[Tensor]) -> Result<f64> {
    let mut sum = 0.0;
    for gradient in gradients {
        sum += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
    }
    Ok(sum.sqrt())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn steps_rise_and_fall() {
        let schedule = Schedule { rate: 1.0, last: 0.1, warm_up: 10, steps: 110 };
        assert!((schedule.rate(0) - 0.1).abs() < 1e-9 && (schedule.rate(9) - 1.0).abs() < 1e-9);
        assert!((schedule.rate(60) - 0.55).abs() < 1e-9 && (schedule.rate(110) - 0.1).abs() < 1e-9);
        assert!((9..110).all(|step| schedule.rate(step) >= schedule.rate(step + 1)));
    }

    #[test]
    fn it_finds_the_bottom_of_a_bowl() {
        let start = Tensor::new(&[3f32, -2.0], &Device::Cpu).unwrap();
        let var = Var::from_tensor(&start).unwrap();
        let trained = vec![Trained { name: "x".to_owned(), var, pace: 1.0 }];
        let mut adam = AdamW::new(&trained).unwrap();
        for _ in 0..400 {
            let gradient = (trained[0].var.as_tensor() * 2.0).unwrap().detach();
            adam.step(&trained, &[gradient], 1.0, 0.05, 0.0).unwrap();
        }
        let end: Vec<f32> = trained[0].var.to_vec1().unwrap();
        assert!(end.iter().all(|value| value.abs() < 0.05), "{end:?}");
    }
}
