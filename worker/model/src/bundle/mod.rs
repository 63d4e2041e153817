//! One packed model: weights, tokenizers, templates, hashes.
