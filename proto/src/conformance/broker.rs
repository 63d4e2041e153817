//! The suite that every [`crate::broker`] implementation passes.
