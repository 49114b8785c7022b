//! `/brokers/seqid`: its data version counts the broker ids that were generated; its data is empty.

pub const PATH: &str = "/brokers/seqid";
