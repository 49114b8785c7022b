//! Which partition of a coordinator's topic a group id or transactional id belongs to.

/// The partition of `key` among `partition_count`: Java's string hash, over UTF-16 code units, then its absolute
/// value. The one number without an absolute value counts as 0, as in Kafka.
/// Source: kafka 3.9 GroupMetadataManager.scala (partitionFor), Utils.abs.
pub(crate) fn partition_for(key: &str, partition_count: i32) -> i32 {
    let hash = java_string_hash(key);
    let magnitude = hash.checked_abs().unwrap_or(0);
    magnitude % partition_count.max(1)
}

fn java_string_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values from `"...".hashCode()` in a JVM.
    #[test]
    fn the_hash_is_javas() {
        assert_eq!(java_string_hash(""), 0);
        assert_eq!(java_string_hash("a"), 97);
        assert_eq!(java_string_hash("hello"), 99162322);
        assert_eq!(java_string_hash("console-consumer-12345"), 158455506);
        assert_eq!(java_string_hash("polygenelubricants"), i32::MIN);
        // One character outside the basic plane is two code units: 0xD83D, 0xDE00.
        assert_eq!(java_string_hash("\u{1F600}"), 0xD83D * 31 + 0xDE00);
    }

    #[test]
    fn the_hash_without_an_absolute_value_is_partition_zero() {
        assert_eq!(partition_for("polygenelubricants", 50), 0);
        assert_eq!(partition_for("hello", 50), 22);
    }
}
