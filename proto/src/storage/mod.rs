//! The object store: one port, a folder and an S3 implementation.
