//! Watching points inside the networks, for the golden trace, and pauses at the same places.
use candle_core::Tensor;

/// A place whose tensor can be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// `[class token; patches]` plus positions, `(B, N, D)`.
    VisionInput,
    /// Output of a vision block, counted from 0.
    VisionBlock(usize),
    /// After `ln_vision`.
    VisionNorm,
    /// Output of a Q-Former layer, counted from 0.
    QFormerLayer(usize),
    /// Output of the first projection.
    Projection,
    /// Residual stream after a language model layer, counted from 1, `(T, H)`.
    LanguageLayer(usize),
    /// After the language model's final norm.
    LanguageNorm,
}

/// Is shown tensors as they arise. Cloning a tensor shares its memory.
pub(crate) type Probe<'a> = &'a mut dyn FnMut(Point, &Tensor);

/// Is called between the layers of a long step: what must not wait for the step's end can be done there.
pub type Pause<'a> = &'a mut dyn FnMut();

/// Looks at nothing.
pub(crate) fn unwatched(_: Point, _: &Tensor) {}
