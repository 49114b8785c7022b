//! `inter.broker.protocol.version`: which request versions and ZooKeeper behaviours a broker uses towards the others.
//! Source: kafka 3.9 server-common/src/main/java/org/apache/kafka/server/common/MetadataVersion.java; rows up to
//! 2.8-IV1 are identical in 2.8.2 core/src/main/scala/kafka/api/ApiVersion.scala.

use std::fmt;
use std::str::FromStr;

macro_rules! metadata_versions {
    ($($name:ident = $release:literal $text:literal,)*) => {
        /// One step of the inter-broker protocol; ordered by age.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(non_camel_case_types)] // `V3_9_IV0` is Kafka's own spelling; `V39Iv0` would be read as 39.
        pub enum MetadataVersion { $($name,)* }

        impl MetadataVersion {
            /// All of them, oldest first.
            pub const ALL: &[MetadataVersion] = &[$(MetadataVersion::$name,)*];

            /// The full name, such as `2.8-IV1`.
            pub fn name(self) -> &'static str {
                match self { $(MetadataVersion::$name => $text,)* }
            }

            /// The release part of the name, such as `2.8`.
            pub fn release(self) -> &'static str {
                match self { $(MetadataVersion::$name => $release,)* }
            }
        }
    };
}

metadata_versions! {
    V0_8_0 = "0.8.0" "0.8.0",
    V0_8_1 = "0.8.1" "0.8.1",
    V0_8_2 = "0.8.2" "0.8.2",
    V0_9_0 = "0.9.0" "0.9.0",
    V0_10_0_IV0 = "0.10.0" "0.10.0-IV0",
    V0_10_0_IV1 = "0.10.0" "0.10.0-IV1",
    V0_10_1_IV0 = "0.10.1" "0.10.1-IV0",
    V0_10_1_IV1 = "0.10.1" "0.10.1-IV1",
    V0_10_1_IV2 = "0.10.1" "0.10.1-IV2",
    V0_10_2_IV0 = "0.10.2" "0.10.2-IV0",
    V0_11_0_IV0 = "0.11.0" "0.11.0-IV0",
    V0_11_0_IV1 = "0.11.0" "0.11.0-IV1",
    V0_11_0_IV2 = "0.11.0" "0.11.0-IV2",
    V1_0_IV0 = "1.0" "1.0-IV0",
    V1_1_IV0 = "1.1" "1.1-IV0",
    V2_0_IV0 = "2.0" "2.0-IV0",
    V2_0_IV1 = "2.0" "2.0-IV1",
    V2_1_IV0 = "2.1" "2.1-IV0",
    V2_1_IV1 = "2.1" "2.1-IV1",
    V2_1_IV2 = "2.1" "2.1-IV2",
    V2_2_IV0 = "2.2" "2.2-IV0",
    V2_2_IV1 = "2.2" "2.2-IV1",
    V2_3_IV0 = "2.3" "2.3-IV0",
    V2_3_IV1 = "2.3" "2.3-IV1",
    V2_4_IV0 = "2.4" "2.4-IV0",
    V2_4_IV1 = "2.4" "2.4-IV1",
    V2_5_IV0 = "2.5" "2.5-IV0",
    V2_6_IV0 = "2.6" "2.6-IV0",
    V2_7_IV0 = "2.7" "2.7-IV0",
    V2_7_IV1 = "2.7" "2.7-IV1",
    V2_7_IV2 = "2.7" "2.7-IV2",
    V2_8_IV0 = "2.8" "2.8-IV0",
    V2_8_IV1 = "2.8" "2.8-IV1",
    V3_0_IV0 = "3.0" "3.0-IV0",
    V3_0_IV1 = "3.0" "3.0-IV1",
    V3_1_IV0 = "3.1" "3.1-IV0",
    V3_2_IV0 = "3.2" "3.2-IV0",
    V3_3_IV0 = "3.3" "3.3-IV0",
    V3_3_IV1 = "3.3" "3.3-IV1",
    V3_3_IV2 = "3.3" "3.3-IV2",
    V3_3_IV3 = "3.3" "3.3-IV3",
    V3_4_IV0 = "3.4" "3.4-IV0",
    V3_5_IV0 = "3.5" "3.5-IV0",
    V3_5_IV1 = "3.5" "3.5-IV1",
    V3_5_IV2 = "3.5" "3.5-IV2",
    V3_6_IV0 = "3.6" "3.6-IV0",
    V3_6_IV1 = "3.6" "3.6-IV1",
    V3_6_IV2 = "3.6" "3.6-IV2",
    V3_7_IV0 = "3.7" "3.7-IV0",
    V3_7_IV1 = "3.7" "3.7-IV1",
    V3_7_IV2 = "3.7" "3.7-IV2",
    V3_7_IV3 = "3.7" "3.7-IV3",
    V3_7_IV4 = "3.7" "3.7-IV4",
    V3_8_IV0 = "3.8" "3.8-IV0",
    V3_9_IV0 = "3.9" "3.9-IV0",
    V4_0_IV0 = "4.0" "4.0-IV0",
    V4_0_IV1 = "4.0" "4.0-IV1",
}

/// Which message format a version of the protocol can store, as the magic byte of its batches.
pub type Magic = u8;

impl MetadataVersion {
    /// What a 3.9 broker uses when the setting is absent: the newest one that is not under development.
    pub const LATEST: MetadataVersion = MetadataVersion::V3_9_IV0;

    pub fn is_sasl_inter_broker_handshake_enabled(self) -> bool {
        self >= MetadataVersion::V0_10_0_IV1
    }

    pub fn is_static_membership_supported(self) -> bool {
        self >= MetadataVersion::V2_3_IV0
    }

    /// The `/feature` znode is kept.
    pub fn is_feature_versioning_supported(self) -> bool {
        self >= MetadataVersion::V2_7_IV0
    }

    /// Leaders ask the controller for another ISR, and write none themselves.
    pub fn is_alter_partition_supported(self) -> bool {
        self >= MetadataVersion::V2_7_IV2
    }

    /// New topics get an id, and a controller gives one to the topics that lack it.
    pub fn is_topic_ids_supported(self) -> bool {
        self >= MetadataVersion::V2_8_IV0
    }

    pub fn is_leader_recovery_supported(self) -> bool {
        self >= MetadataVersion::V3_2_IV0
    }

    /// The version of the JSON in `/brokers/ids/N`.
    pub fn broker_registration_version(self) -> i32 {
        if self >= MetadataVersion::V2_7_IV0 {
            5
        } else if self >= MetadataVersion::V0_10_0_IV1 {
            4
        } else {
            2
        }
    }

    /// The version of the JSON in `/feature`.
    pub fn feature_znode_version(self) -> i32 {
        if self >= MetadataVersion::V3_3_IV0 { 2 } else { 1 }
    }

    pub fn highest_supported_magic(self) -> Magic {
        if self < MetadataVersion::V0_10_0_IV0 {
            0
        } else if self < MetadataVersion::V0_11_0_IV0 {
            1
        } else {
            2
        }
    }

    /// The oldest release that can store batches of this magic, as Kafka names it in a message.
    pub fn oldest_release_of_magic(magic: Magic) -> &'static str {
        match magic {
            0 => MetadataVersion::V0_8_0.release(),
            1 => "0.10.0",
            _ => "0.11.0",
        }
    }

    pub fn leader_and_isr_request_version(self) -> i16 {
        step(self, &LEADER_AND_ISR)
    }

    /// As a level of the feature `metadata.version`; -1 for those that are older than it.
    pub fn feature_level(self) -> i16 {
        let mut level = MetadataVersion::ALL.iter().skip_while(|version| **version < V3_0_IV1);
        let level = level.position(|version| *version == self).and_then(|level| i16::try_from(level + 1).ok());
        level.unwrap_or(-1)
    }

    /// Producer ids come from the controller; before, each broker took them from ZooKeeper.
    pub fn is_allocate_producer_ids_supported(self) -> bool {
        self >= V3_0_IV0
    }

    pub fn write_txn_markers_request_version(self) -> i16 {
        if self >= V2_8_IV0 { 1 } else { 0 }
    }

    pub fn controlled_shutdown_request_version(self) -> i16 {
        step(self, &CONTROLLED_SHUTDOWN)
    }

    pub fn stop_replica_request_version(self) -> i16 {
        step(self, &STOP_REPLICA)
    }

    pub fn update_metadata_request_version(self) -> i16 {
        step(self, &UPDATE_METADATA)
    }

    /// The version of a follower's Fetch. From 13 on it needs a topic id for each of its partitions, without which it is 12.
    pub fn fetch_request_version(self) -> i16 {
        step(self, &FETCH)
    }

    pub fn offset_for_leader_epoch_request_version(self) -> i16 {
        step(self, &OFFSET_FOR_LEADER_EPOCH)
    }

    /// The version of a follower's ListOffsets.
    pub fn list_offsets_request_version(self) -> i16 {
        step(self, &LIST_OFFSETS)
    }

    /// Followers ask for the end of an epoch before they truncate.
    pub fn is_offset_for_leader_epoch_supported(self) -> bool {
        self >= MetadataVersion::V0_11_0_IV2
    }

    /// Followers learn from the answer to a fetch where to truncate.
    pub fn is_truncation_on_fetch_supported(self) -> bool {
        self >= MetadataVersion::V2_7_IV1
    }

    /// The version of a group metadata value in `__consumer_offsets`.
    pub fn group_metadata_value_version(self) -> i16 {
        step(self, &GROUP_METADATA_VALUE)
    }

    /// The version of an offset commit value in `__consumer_offsets`; an explicit expiry time exists only in 1.
    pub fn offset_commit_value_version(self, has_expire_timestamp: bool) -> i16 {
        if has_expire_timestamp { 1 } else { step(self, &OFFSET_COMMIT_VALUE) }
    }
}

/// Where a request version changes: the version that holds from a protocol version on, oldest first. Below the
/// first row it is 0.
type Steps = [(MetadataVersion, i16)];

fn step(at: MetadataVersion, steps: &Steps) -> i16 {
    steps.iter().rev().find(|(from, _)| at >= *from).map_or(0, |(_, version)| *version)
}

use MetadataVersion::*;

const LEADER_AND_ISR: [(MetadataVersion, i16); 7] =
    [(V1_0_IV0, 1), (V2_2_IV0, 2), (V2_4_IV0, 3), (V2_4_IV1, 4), (V2_8_IV1, 5), (V3_2_IV0, 6), (V3_4_IV0, 7)];
const CONTROLLED_SHUTDOWN: [(MetadataVersion, i16); 3] = [(V0_9_0, 1), (V2_2_IV0, 2), (V2_4_IV1, 3)];
const STOP_REPLICA: [(MetadataVersion, i16); 4] = [(V2_2_IV0, 1), (V2_4_IV1, 2), (V2_6_IV0, 3), (V3_4_IV0, 4)];
const UPDATE_METADATA: [(MetadataVersion, i16); 8] = [
    (V0_9_0, 1),
    (V0_10_0_IV1, 2),
    (V0_10_2_IV0, 3),
    (V1_0_IV0, 4),
    (V2_2_IV0, 5),
    (V2_4_IV1, 6),
    (V2_8_IV1, 7),
    (V3_4_IV0, 8),
];
const FETCH: [(MetadataVersion, i16); 15] = [
    (V0_9_0, 1),
    (V0_10_0_IV0, 2),
    (V0_10_1_IV1, 3),
    (V0_11_0_IV0, 4),
    (V0_11_0_IV1, 5),
    (V1_1_IV0, 7),
    (V2_0_IV1, 8),
    (V2_1_IV2, 10),
    (V2_3_IV1, 11),
    (V2_7_IV1, 12),
    (V3_1_IV0, 13),
    (V3_5_IV0, 14),
    (V3_5_IV1, 15),
    (V3_7_IV4, 16),
    (V3_9_IV0, 17),
];
const OFFSET_FOR_LEADER_EPOCH: [(MetadataVersion, i16); 4] =
    [(V2_0_IV0, 1), (V2_1_IV1, 2), (V2_3_IV1, 3), (V2_8_IV0, 4)];
const LIST_OFFSETS: [(MetadataVersion, i16); 9] = [
    (V0_10_1_IV2, 1),
    (V0_11_0_IV0, 2),
    (V2_0_IV1, 3),
    (V2_1_IV1, 4),
    (V2_2_IV1, 5),
    (V2_8_IV0, 6),
    (V3_0_IV1, 7),
    (V3_5_IV0, 8),
    (V3_9_IV0, 9),
];
const GROUP_METADATA_VALUE: [(MetadataVersion, i16); 3] = [(V0_10_1_IV0, 1), (V2_1_IV0, 2), (V2_3_IV0, 3)];
const OFFSET_COMMIT_VALUE: [(MetadataVersion, i16); 3] = [(V0_8_0, 1), (V2_1_IV0, 2), (V2_1_IV1, 3)];

/// The text names no version of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidMetadataVersion(pub String);

/// Kafka's text.
impl fmt::Display for InvalidMetadataVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version {} is not a valid version", self.0)
    }
}

impl std::error::Error for InvalidMetadataVersion {}

impl fmt::Display for MetadataVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for MetadataVersion {
    type Err = InvalidMetadataVersion;

    /// Only the first two dotted segments count, three when the text starts with `0.`; a bare release means its
    /// highest step, so `2.8.1` is `2.8-IV1`. Case matters.
    fn from_str(text: &str) -> Result<MetadataVersion, InvalidMetadataVersion> {
        let segments = if text.starts_with("0.") { 3 } else { 2 };
        let cut = text.split('.').take(segments).collect::<Vec<_>>().join(".");
        MetadataVersion::ALL
            .iter()
            .rev()
            // The steps of 4.0 were never made production in 3.9, so a bare `4.0` means nothing there.
            .find(|v| v.name() == cut || (v.release() == cut && **v <= MetadataVersion::LATEST))
            .copied()
            .ok_or_else(|| InvalidMetadataVersion(text.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_release_means_its_highest_step_and_patch_numbers_are_ignored() {
        for (text, expected) in [
            ("3.9", V3_9_IV0),
            ("3.9.1", V3_9_IV0),
            ("2.8", V2_8_IV1),
            ("2.8-IV0", V2_8_IV0),
            ("2.8.2", V2_8_IV1),
            ("3.7", V3_7_IV4),
            ("0.10.0", V0_10_0_IV1),
            ("0.10.0-IV0", V0_10_0_IV0),
            ("0.8.2.1", V0_8_2),
            ("0.9.0.1", V0_9_0),
            ("0.11.0.0", V0_11_0_IV2),
            ("1.0", V1_0_IV0),
            ("4.0-IV1", V4_0_IV1),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused_with_kafkas_words() {
        for text in ["", "2.9", "3", "2.8-iv1", "0.9", "4.0", "trunk"] {
            let error = text.parse::<MetadataVersion>().expect_err(text);
            assert_eq!(error.to_string(), format!("Version {text} is not a valid version"));
        }
    }

    /// The table of versions by protocol version; a row is listed where something changes.
    #[test]
    fn request_versions_follow_the_table() {
        // LeaderAndIsr, StopReplica, UpdateMetadata, Fetch, OffsetForLeaderEpoch, ListOffsets, ControlledShutdown,
        // WriteTxnMarkers
        let table: &[(MetadataVersion, [i16; 8])] = &[
            (V0_8_2, [0, 0, 0, 0, 0, 0, 0, 0]),
            (V0_9_0, [0, 0, 1, 1, 0, 0, 1, 0]),
            (V0_10_0_IV0, [0, 0, 1, 2, 0, 0, 1, 0]),
            (V0_10_0_IV1, [0, 0, 2, 2, 0, 0, 1, 0]),
            (V0_10_1_IV1, [0, 0, 2, 3, 0, 0, 1, 0]),
            (V0_10_1_IV2, [0, 0, 2, 3, 0, 1, 1, 0]),
            (V0_10_2_IV0, [0, 0, 3, 3, 0, 1, 1, 0]),
            (V0_11_0_IV0, [0, 0, 3, 4, 0, 2, 1, 0]),
            (V0_11_0_IV1, [0, 0, 3, 5, 0, 2, 1, 0]),
            (V1_0_IV0, [1, 0, 4, 5, 0, 2, 1, 0]),
            (V1_1_IV0, [1, 0, 4, 7, 0, 2, 1, 0]),
            (V2_0_IV0, [1, 0, 4, 7, 1, 2, 1, 0]),
            (V2_0_IV1, [1, 0, 4, 8, 1, 3, 1, 0]),
            (V2_1_IV1, [1, 0, 4, 8, 2, 4, 1, 0]),
            (V2_1_IV2, [1, 0, 4, 10, 2, 4, 1, 0]),
            (V2_2_IV0, [2, 1, 5, 10, 2, 4, 2, 0]),
            (V2_2_IV1, [2, 1, 5, 10, 2, 5, 2, 0]),
            (V2_3_IV1, [2, 1, 5, 11, 3, 5, 2, 0]),
            (V2_4_IV0, [3, 1, 5, 11, 3, 5, 2, 0]),
            (V2_4_IV1, [4, 2, 6, 11, 3, 5, 3, 0]),
            (V2_6_IV0, [4, 3, 6, 11, 3, 5, 3, 0]),
            (V2_7_IV1, [4, 3, 6, 12, 3, 5, 3, 0]),
            (V2_8_IV0, [4, 3, 6, 12, 4, 6, 3, 1]),
            (V2_8_IV1, [5, 3, 7, 12, 4, 6, 3, 1]),
            (V3_0_IV1, [5, 3, 7, 12, 4, 7, 3, 1]),
            (V3_1_IV0, [5, 3, 7, 13, 4, 7, 3, 1]),
            (V3_2_IV0, [6, 3, 7, 13, 4, 7, 3, 1]),
            (V3_4_IV0, [7, 4, 8, 13, 4, 7, 3, 1]),
            (V3_5_IV0, [7, 4, 8, 14, 4, 8, 3, 1]),
            (V3_5_IV1, [7, 4, 8, 15, 4, 8, 3, 1]),
            (V3_7_IV4, [7, 4, 8, 16, 4, 8, 3, 1]),
            (V3_9_IV0, [7, 4, 8, 17, 4, 9, 3, 1]),
        ];
        for version in MetadataVersion::ALL.iter().copied() {
            let (_, expected) = table.iter().rev().find(|(from, _)| version >= *from).unwrap_or(&table[0]);
            let actual = [
                version.leader_and_isr_request_version(),
                version.stop_replica_request_version(),
                version.update_metadata_request_version(),
                version.fetch_request_version(),
                version.offset_for_leader_epoch_request_version(),
                version.list_offsets_request_version(),
                version.controlled_shutdown_request_version(),
                version.write_txn_markers_request_version(),
            ];
            assert_eq!(actual, *expected, "{version}");
        }
    }

    #[test]
    fn the_feature_began_with_3_0() {
        let level = |version: MetadataVersion| version.feature_level();
        assert_eq!([level(V3_0_IV0), level(V3_0_IV1), level(V3_3_IV3), level(V3_9_IV0)], [-1, 1, 7, 21]);
    }

    #[test]
    fn values_in_the_offsets_topic_follow_the_protocol_version() {
        assert_eq!(V0_10_0_IV1.group_metadata_value_version(), 0);
        assert_eq!(V2_0_IV1.group_metadata_value_version(), 1);
        assert_eq!(V2_2_IV1.group_metadata_value_version(), 2);
        assert_eq!(V2_3_IV0.group_metadata_value_version(), 3);
        assert_eq!(V2_0_IV1.offset_commit_value_version(false), 1);
        assert_eq!(V2_1_IV0.offset_commit_value_version(false), 2);
        assert_eq!(V3_9_IV0.offset_commit_value_version(false), 3);
        assert_eq!(V3_9_IV0.offset_commit_value_version(true), 1);
    }
}
