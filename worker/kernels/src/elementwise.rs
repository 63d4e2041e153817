//! The functions between products: both GELUs, the softmax of a row and the logarithm of its divisor, and both norms of a row.
//!
//! The formulas, compiled once for each instruction set.
use crate::formulas::{gelu_erf_of, gelu_tanh_of, layer_norm_of, log_sum_exp_of, rms_norm_of, softmax_of};

macro_rules! compiled_for_each_processor {
    ($(#[$doc:meta])* $visible:vis $name:ident($($argument:ident: $kind:ty),*) = $body:ident) => {
        $(#[$doc])*
        $visible fn $name(backend: $crate::Backend, $($argument: $kind),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($argument: $kind),*) {
                    $body($($argument),*);
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512($($argument: $kind),*) {
                    $body($($argument),*);
                }
                match backend.detect() {
                    // SAFETY: each value is proof that the processor has the features.
                    Ok($crate::backend::Detected::Avx2(_)) => return unsafe { avx2($($argument),*) },
                    // SAFETY: as above.
                    Ok(
                        $crate::backend::Detected::Avx512(_)
                        | $crate::backend::Detected::Avx512Bf16(_)
                        | $crate::backend::Detected::Amx(_)
                    ) => return unsafe { avx512($($argument),*) },
                    Ok($crate::backend::Detected::Portable) | Err(_) => {}
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = backend;
            $body($($argument),*);
        }
    };
}
pub(crate) use compiled_for_each_processor;

compiled_for_each_processor! {
    /// The exact GELU, `x Φ(x)` (Hendrycks & Gimpel 2016), of the values of `xs` into as many of `out`.
    ///
    /// It is at most 1e-7 (1 + |x|) away. `backend` only chooses instructions; one that the processor lacks counts as
    /// [`Backend::Portable`](crate::Backend::Portable).
    pub gelu_erf(xs: &[f32], out: &mut [f32]) = gelu_erf_of
}

compiled_for_each_processor! {
    /// Its tanh approximation, of the values of `xs` into as many of `out`; at most 2e-7 (1 + |x|) away from the formula.
    pub gelu_tanh(xs: &[f32], out: &mut [f32]) = gelu_tanh_of
}

compiled_for_each_processor! {
    /// Softmax of a row in place. Minus infinity becomes zero; a row with NaN, or with nothing but minus infinity, NaN.
    pub softmax(row: &mut [f32]) = softmax_of
}

compiled_for_each_processor! {
    total(row: &[f32], total: &mut f64) = log_sum_exp_of
}

/// ln Σ e^x of a row: softmax is `e^(x - it)`. At most 2e-6 away from what f64 gives; NaN for a row with NaN or plus infinity, or
/// with nothing but minus infinity.
pub fn log_sum_exp(backend: crate::Backend, row: &[f32]) -> f64 {
    let mut sum = f64::NAN;
    total(backend, row, &mut sum);
    sum
}

compiled_for_each_processor! {
    /// LayerNorm of a row (Ba et al. 2016): `out = (row - mean) / sqrt(variance + eps) * weight + bias`, all as long as `row`.
    ///
    /// Two passes, mean and then squared distances from it: a single one loses most digits where the mean is far from zero. A row whose
    /// squares are beyond f32 is computed in f64.
    pub layer_norm(row: &[f32], weight: &[f32], bias: &[f32], eps: f64, out: &mut [f32]) = layer_norm_of
}

compiled_for_each_processor! {
    /// RMSNorm of a row (Zhang & Sennrich 2019): `out = row / sqrt(mean square + eps) * weight`, all as long as `row`. A row whose
    /// squares are beyond f32 is computed in f64.
    pub rms_norm(row: &[f32], weight: &[f32], eps: f64, out: &mut [f32]) = rms_norm_of
}
