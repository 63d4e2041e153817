//! RabbitMQ keeps the port's promises. Needs a real one: `CAPTIONFLEET_TEST_AMQP` names it.

use std::sync::Arc;

use captionfleet_proto::broker::rabbitmq::{RabbitMq, RabbitMqOptions};
use captionfleet_proto::broker::{Broker, Topology};

use crate::conformance::conformance;
use crate::support::broker_uri;

async fn make(topology: Topology) -> Arc<dyn Broker> {
    let options = RabbitMqOptions::new([broker_uri()], topology);
    Arc::new(RabbitMq::connect(options).await.expect("the test broker accepts the connection"))
}

conformance!(make);
