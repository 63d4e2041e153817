//! A prefix of a bucket as a store. This folder is the only place that names the AWS SDK.
//!
//! What may pass within seconds is retried here: by the SDK up to the response's headers, by [`store`] for bodies
//! that stall, break off or do not match their checksum.

mod busy;
mod connect;
mod credentials;
mod fault;
mod http;
mod list;
mod meta;
mod page;
mod store;
mod upload;

pub(super) use connect::{Connection, connect};
pub(super) use store::S3Storage;
