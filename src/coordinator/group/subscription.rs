//! Which topics the members of protocol type `consumer` subscribe to, read from the metadata that they joined with:
//!
//! ```text
//! version i16 | count i32 | count × (length i16, topic) | length i32, user data
//! ```
//! That is version 0, a prefix of every later one, so only that much is read.
//! Source: kafka 3.9 GroupMetadata.scala (computeSubscribedTopics), ConsumerProtocolSubscription.json.

use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;

use crate::codec::reader::{DecodeError, Reader};
use crate::codec::text::text_of;

/// Topics by their hashes, sorted: names would take many times the metadata they stand in, and nothing bounds their number
/// but its size. Of two topics with one hash a group subscribes to both or to none, so the offsets of one may be kept
/// longer than they need to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SubscribedTopics {
    hashes: Vec<u64>,
}

fn hash(topic: &str) -> u64 {
    // Without a random seed: what a core decides is the same each time.
    let mut hasher = DefaultHasher::new();
    topic.hash(&mut hasher);
    hasher.finish()
}

impl SubscribedTopics {
    pub(super) fn contains(&self, topic: &str) -> bool {
        self.hashes.binary_search(&hash(topic)).is_ok()
    }

    pub(super) fn bytes(&self) -> usize {
        self.hashes.len() * size_of::<u64>()
    }

    /// Of all members; `Err` is the index of one whose metadata is not a subscription.
    pub(super) fn of(members: impl Iterator<Item = Bytes>) -> Result<SubscribedTopics, usize> {
        let mut hashes = Vec::new();
        let mut most = 1024;
        for (index, metadata) in members.enumerate() {
            read(metadata, &mut hashes).map_err(|_| index)?;
            // So that the topics of a thousand members are not held a thousand times.
            if hashes.len() > most {
                hashes.sort_unstable();
                hashes.dedup();
                most = 2 * hashes.len() + 1024;
            }
        }
        hashes.sort_unstable();
        hashes.dedup();
        hashes.shrink_to_fit();
        Ok(SubscribedTopics { hashes })
    }
}

/// Adds the topics of one member.
fn read(metadata: Bytes, hashes: &mut Vec<u64>) -> Result<(), DecodeError> {
    let mut reader = Reader::new(metadata);
    let version = reader.i16()?;
    if version < 0 {
        return Err(DecodeError::InvalidLength(i64::from(version)));
    }
    for _ in 0..reader.length_i32()?.ok_or(DecodeError::InvalidLength(-1))? {
        let length = reader.length_i16()?.ok_or(DecodeError::InvalidLength(-1))?;
        let topic = reader.take(length)?;
        hashes.push(hash(&text_of(&topic)));
    }
    if let Some(length) = reader.length_i32()? {
        reader.take(length)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(topics: &[&str]) -> Bytes {
        let mut bytes = vec![0, 1];
        bytes.extend((topics.len() as i32).to_be_bytes());
        for topic in topics {
            bytes.extend((topic.len() as i16).to_be_bytes());
            bytes.extend(topic.as_bytes());
        }
        bytes.extend((-1_i32).to_be_bytes());
        // What later versions have behind it.
        bytes.extend([0; 8]);
        bytes.into()
    }

    #[test]
    fn topics_of_all_members_are_known_and_what_is_no_subscription_is_told_apart() {
        let members = [metadata(&["a", "b"]), metadata(&["b", "c"]), metadata(&[])];
        let topics = SubscribedTopics::of(members.iter().cloned()).expect("well-formed");
        assert_eq!(["a", "b", "c", "d", ""].map(|topic| topics.contains(topic)), [true, true, true, false, false]);
        assert_eq!(topics.bytes(), 24);
        let negative = Bytes::from_static(&[0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
        for wrong in [Bytes::new(), Bytes::from_static(&[0, 0, 0x7f, 0xff, 0xff, 0xff]), negative] {
            assert_eq!(SubscribedTopics::of([metadata(&["a"]), wrong].into_iter()), Err(1));
        }
        for length in 0..members[0].len() - 8 {
            assert_eq!(SubscribedTopics::of([members[0].slice(..length)].into_iter()), Err(0), "{length}");
        }
    }

    #[test]
    fn a_topic_that_is_not_utf8_is_no_reason_to_take_the_others_for_unknown() {
        let latin = [0, 1, 0, 0, 0, 2, 0, 3, b'g', 0xfc, b'n', 0, 1, b'a', 0xff, 0xff, 0xff, 0xff];
        let topics = SubscribedTopics::of([Bytes::copy_from_slice(&latin)].into_iter()).expect("well-formed");
        assert_eq!(["a", "g\u{fffd}n", "gn"].map(|topic| topics.contains(topic)), [true, true, false]);
    }

    #[test]
    fn a_million_times_the_same_topic_takes_the_place_of_one() {
        let topics = SubscribedTopics::of([metadata(&[""; 30_000]), metadata(&["a"; 30_000])].into_iter());
        assert_eq!(topics.map(|topics| topics.bytes()), Ok(16));
    }
}
