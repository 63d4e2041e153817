//! Published checkpoint files, read and resolved to named tensors.
