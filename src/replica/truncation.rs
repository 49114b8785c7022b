//! Where a follower cuts its log, by what its leader says of an epoch.
//! Source: kafka 3.9 core/src/main/scala/kafka/server/AbstractFetcherThread.scala (getOffsetTruncationState); KIP-101, KIP-279.

use crate::log::leader_epochs::EpochEnd;
use crate::model::{LeaderEpoch, Offset};

const NO_EPOCH: LeaderEpoch = LeaderEpoch(-1);
const NO_OFFSET: Offset = Offset(-1);

/// Where the log is to end, and whether that settles it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truncation {
    /// What is left is the beginning of the leader's log.
    Done(Offset),
    /// The leader must be asked about the epoch that the log ends with then.
    AskAgain(Offset),
}

impl Truncation {
    pub fn offset(self) -> Offset {
        match self {
            Truncation::Done(offset) | Truncation::AskAgain(offset) => offset,
        }
    }
}

/// `leader` is the leader's answer about the follower's last epoch, and `local` what the follower's own log says of the
/// epoch in that answer. `fallback` is the high watermark that the follower had when it began to follow.
pub fn truncation(leader: EpochEnd, local: EpochEnd, log_end_offset: Offset, fallback: Offset) -> Truncation {
    if leader.end_offset == NO_OFFSET {
        return Truncation::Done(fallback.min(log_end_offset));
    }
    // Leaders of before 2.0 do not say which epoch it is that ends there; or all of ours are older.
    if leader.epoch == NO_EPOCH || local.end_offset == NO_OFFSET {
        return Truncation::Done(leader.end_offset.min(log_end_offset));
    }
    if local.epoch != leader.epoch {
        return Truncation::AskAgain(local.end_offset.min(log_end_offset));
    }
    Truncation::Done(leader.end_offset.min(local.end_offset).min(log_end_offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(epoch: i32, end_offset: i64) -> EpochEnd {
        EpochEnd { epoch: LeaderEpoch(epoch), end_offset: Offset(end_offset) }
    }

    #[test]
    fn a_follower_truncates_to_where_its_log_parts_from_the_leaders() {
        use Truncation::{AskAgain, Done};
        let none = EpochEnd::UNDEFINED;
        // The log ends at 100, and its high watermark was 40.
        let cases = [
            ("the leader knows nothing", none, none, Done(Offset(40))),
            ("the leader does not say which epoch", end(-1, 70), none, Done(Offset(70))),
            ("the leader does not say which epoch, and has more", end(-1, 170), none, Done(Offset(100))),
            ("the epoch is known here, and ended earlier at the leader", end(5, 70), end(5, 90), Done(Offset(70))),
            ("the epoch is known here, and ended earlier here", end(5, 90), end(5, 70), Done(Offset(70))),
            ("the epoch goes on at both", end(5, 170), end(5, 100), Done(Offset(100))),
            ("the epoch is not known here, but an earlier one is", end(5, 90), end(3, 60), AskAgain(Offset(60))),
            ("the epoch is earlier than all here", end(1, 20), end(1, 50), Done(Offset(20))),
            ("the epoch is later than all here", end(9, 80), none, Done(Offset(80))),
        ];
        for (what, leader, local, expected) in cases {
            assert_eq!(truncation(leader, local, Offset(100), Offset(40)), expected, "{what}");
        }
    }
}
