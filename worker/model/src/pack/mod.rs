//! Checkpoint tensors, quantised and written as one bundle.
