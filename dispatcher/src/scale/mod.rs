//! How many workers the waiting work is worth.
//!
//! [`rule`] is the decision, [`autoscaler`] what KEDA and the horizontal pod autoscaler make of it over time, and
//! [`simulate`] plays both against arrivals, cold starts and a spot market; [`estimate`] reckons what a plan needs of fleets of
//! given sizes. All of it is arithmetic: no clock, no broker.

pub mod autoscaler;
pub mod estimate;
pub mod price;
pub mod rule;
pub mod simulate;
