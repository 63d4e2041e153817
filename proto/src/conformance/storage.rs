//! The suite that every [`crate::storage`] implementation passes.
