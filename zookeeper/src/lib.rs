//! The znodes of a Kafka cluster and the session that reads and writes them.
