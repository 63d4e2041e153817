//! The embedded broker keeps the port's promises.

use std::sync::Arc;

use captionfleet_proto::broker::embedded::EmbeddedBroker;
use captionfleet_proto::broker::{Broker, Topology};

use crate::conformance::conformance;

async fn make(topology: Topology) -> Arc<dyn Broker> {
    Arc::new(EmbeddedBroker::new(topology))
}

conformance!(make);
