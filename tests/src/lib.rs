//! Sandbox of real services, end-to-end tests and benches across the crates.
