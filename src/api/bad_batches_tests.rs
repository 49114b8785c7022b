//! What is answered to batches that are damaged, odd or at the edge of what is allowed: what a JVM broker answers. Where
//! that stumbles over them and says UNKNOWN_SERVER_ERROR, ours says what is wrong with them, and that sending them again
//! is of no use.
//!
//! A line of the file: name, version of Produce, the answers of a topic that keeps the producer's codec and of one that has
//! gzip, and the bytes. tests/jvm/BadBatches.java wrote it.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::api::produce::accepted_sets;
use crate::config::log::LogConfig;
use crate::log::testing::OneLog;
use crate::model::LeaderEpoch;
use crate::protocol::error_code::ErrorCode;
use crate::record::append::prepare;
use crate::record::append_rules::{AppendOrigin, AppendRules, TopicCompression};
use crate::record::compression::Codec;

const ANSWERS: &str = include_str!("../../tests/golden/records/bad-batches.txt");

/// What of the names marks a batch that ours takes or refuses with a reason to differ.
const OURS_TAKES: [&str; 8] = [
    // A JVM sets out to give the records offsets in order, and stumbles when it measures them.
    "gzip_records:_a_gap",
    "gzip_records:_offset_of_",
    "gzip_records:_offsets_all_the_same",
    "gzip_records:_offsets_backwards",
    "gzip_records:_offsets_from_1_on",
    "gzip_records:_offsets_negative",
    // A last message that is cut short does not count, however long it says that it is: a JVM first reserves as much.
    "_inner_size_of_2_GB",
    // A JVM takes it for the end where it writes the batch anew, and only there.
    "lz4_empty_packed_block",
];
/// A JVM passes over keys and values and believes that records are as long as their fields. Its consumers do not, and stop
/// at such a record for good.
const OURS_REFUSES: [&str; 5] = [
    "gzip_records:_length_-1",
    "gzip_records:_length_-2^31",
    "gzip_records:_length_of_2_GB",
    "gzip_records:_longer_by_one",
    "gzip_records:_shorter_by_one",
];

/// A code, or how many offsets were given out.
fn answer(version: i16, bytes: Bytes, compression: TopicCompression) -> Result<i64, ErrorCode> {
    let rules = AppendRules { accepted_sets: accepted_sets(version), compression, ..AppendRules::default() };
    let mut prepared = prepare(bytes, &rules, 0).map_err(|error| ErrorCode::from(&error))?;
    let one = OneLog::new(LogConfig::default());
    let log = one.open_clean();
    log.lead(LeaderEpoch(0)).expect("the first epoch");
    let appended = log.append_as_leader(&mut prepared, LeaderEpoch(0), AppendOrigin::Client, 0);
    appended.map_err(|error| ErrorCode::from(&error))?;
    Ok(log.log_end_offset().0)
}

fn is_as_good_as(ours: Result<i64, ErrorCode>, jvm: &str) -> bool {
    match (ours, jvm.strip_prefix("NONE:")) {
        (Ok(offsets), Some(count)) => count.parse() == Ok(offsets),
        (Err(code), None) if jvm == "UNKNOWN_SERVER_ERROR" => {
            matches!(code, ErrorCode::InvalidRecord | ErrorCode::UnsupportedCompressionType)
        }
        (Err(code), None) => code.name() == jvm,
        _ => false,
    }
}

#[test]
fn bad_batches_are_answered_as_by_a_jvm_broker() {
    let gzip = TopicCompression::Codec { codec: Codec::Gzip, level: None };
    let mut differ = BTreeMap::new();
    for line in ANSWERS.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [name, version, of_producer, of_gzip, hex] = words[..] else { panic!("{line}") };
        let bytes: Option<Vec<u8>> =
            hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()).collect();
        let bytes = Bytes::from(bytes.expect("hexadecimal"));
        for (jvm, compression) in [(of_producer, TopicCompression::Producer), (of_gzip, gzip)] {
            let ours = answer(version.parse().expect("a number"), bytes.clone(), compression);
            let differs_by_intent = match ours {
                Ok(_) => OURS_TAKES.iter().any(|marked| name.contains(marked)),
                Err(ErrorCode::InvalidRecord) => OURS_REFUSES.iter().any(|marked| name.contains(marked)),
                Err(_) => false,
            };
            if !differs_by_intent && !is_as_good_as(ours, jvm) {
                differ.insert(format!("{name}, {compression:?}"), format!("{jvm}, ours {ours:?}"));
            }
        }
    }
    assert!(differ.is_empty(), "{differ:#?}");
}
