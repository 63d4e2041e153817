//! Sandbox of real services for the tests that cross crates: a private `RabbitMQ` node and S3 servers on
//! free loopback ports, the two programs as child processes, and folders of awkward pictures.
//!
//! Nothing here is used in production; everything here is real: no service is mocked.

pub mod faults;
pub mod fleet;
pub mod load;
pub mod sandbox;
