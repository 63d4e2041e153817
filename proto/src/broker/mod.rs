//! The queue: one port, an in-process and a RabbitMQ implementation.
