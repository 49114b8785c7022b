//! Which partition a record with a key goes to.

/// The hash that Kafka's clients choose a keyed record's partition by: 32-bit MurmurHash2 with a fixed seed.
/// Source: kafka 3.9.1 clients/src/main/java/org/apache/kafka/common/utils/Utils.java, murmur2.
pub fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    // Java's length is an int; a key is never longer than a record.
    let mut hash = SEED ^ (data.len() as u32);
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// The partition of a keyed record among `partition_count` (at least 1) partitions.
pub fn partition_of_key(key: &[u8], partition_count: usize) -> usize {
    (murmur2(key) & 0x7fff_ffff) as usize % partition_count
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Source: kafka 3.9.1 clients/src/test/java/org/apache/kafka/common/utils/UtilsTest.java, testMurmur2.
    #[test]
    fn hashes_are_those_of_the_java_client() {
        for (text, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()) as i32, hash, "{text}");
        }
    }
}
