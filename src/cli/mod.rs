//! The command-line tools: one file per script in bin/, with Kafka's flags, output and exit codes.

pub(crate) mod options;
