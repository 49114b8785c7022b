//! What a fetcher's core wants done to the log of a partition, done. May wait for a disk.

use log::error;

use crate::log::error::LogError;
use crate::model::LeaderEpoch;
use crate::replica::error::ReplicaError;
use crate::replica::fetcher::state::{Done, Settled, Task, Trouble, Work};
use crate::replica::partition::Partition;
use crate::replica::partition_log::PartitionLog;
use crate::replica::truncation::Truncation;

pub(crate) fn done<L: PartitionLog>(partition: &Partition<L>, work: Work, now_ms: i64) -> Done {
    let Work { partition: name, stay, leader_epoch, task } = work;
    let outcome =
        carry_out(partition, leader_epoch, task, now_ms).map_err(|why| trouble(partition, leader_epoch, &why));
    Done { partition: name, stay, outcome }
}

fn carry_out<L: PartitionLog>(
    partition: &Partition<L>,
    leader_epoch: LeaderEpoch,
    task: Task,
    now_ms: i64,
) -> Result<Settled, ReplicaError> {
    let mut must_ask_again = false;
    match task {
        Task::Append(_) if partition.has_unflushed() => partition.flush_before_acknowledgement(now_ms)?,
        Task::Append(from_leader) => match partition.append_from_leader(&from_leader, now_ms) {
            Ok(info) if info.flush_due => partition.flush_before_acknowledgement(now_ms)?,
            Ok(_) => {}
            // What was on its way to the disk when this was asked for has arrived there, and is not asked for again.
            Err(ReplicaError::Log(LogError::UnexpectedOffset { .. }))
                if partition.follower_position(leader_epoch)?.log_end_offset != from_leader.fetch_offset => {}
            Err(why) => return Err(why),
        },
        Task::Truncate(offset) => drop(partition.truncate(offset, leader_epoch, now_ms)?),
        Task::TruncateByEpoch { leader, fallback } => {
            let truncation = partition.truncate_by_epoch(leader, fallback, leader_epoch, now_ms)?;
            must_ask_again = matches!(truncation, Truncation::AskAgain(_));
        }
        Task::RestartAt(offset) => partition.restart_at(offset, leader_epoch, now_ms)?,
    }
    Ok(Settled { position: partition.follower_position(leader_epoch)?, must_ask_again })
}

/// What an error means for the partition. Kafka tries again after damage on the way and no more than that; here a full disk
/// takes no log out of service, so it may pass too.
fn trouble<L: PartitionLog>(partition: &Partition<L>, leader_epoch: LeaderEpoch, why: &ReplicaError) -> Trouble {
    let passes = match why {
        ReplicaError::NotLeaderOrFollower => return Trouble::Overtaken,
        ReplicaError::Log(LogError::InvalidBatch { .. } | LogError::BeingTruncated) | ReplicaError::ShuttingDown => {
            true
        }
        ReplicaError::Log(error @ LogError::Io { .. }) => !error.is_storage_failure(),
        _ => false,
    };
    if !passes {
        error!("{}: what its leader sent cannot be taken: {why}", partition.name());
        return Trouble::Lasting(why.to_string());
    }
    match partition.follower_position(leader_epoch) {
        Ok(position) => Trouble::Passing { why: why.to_string(), position },
        Err(why) => trouble(partition, leader_epoch, &why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::log::LogConfig;
    use crate::model::Offset;
    use crate::replica::follower_tests::{EPOCH, NOW_MS, batch, following, from_leader};

    #[test]
    fn what_passes_by_itself_is_no_reason_to_give_a_partition_up() {
        let follower = following(LogConfig::default());
        let of = |why: LogError| trouble(&follower.partition, EPOCH, &why.into());
        assert!(matches!(of(LogError::BeingTruncated), Trouble::Passing { .. }));
        let full = || LogError::Io { context: String::new(), source: std::io::ErrorKind::StorageFull.into() };
        assert!(matches!(of(full()), Trouble::Passing { .. }));
        assert_eq!(trouble(&follower.partition, LeaderEpoch(4), &full().into()), Trouble::Overtaken);
        assert_eq!(of(LogError::Closed), Trouble::Overtaken);
        assert_eq!(of(LogError::StaleLeaderEpoch { given: LeaderEpoch(1), latest: EPOCH }), Trouble::Overtaken);
        assert!(matches!(of(LogError::Corrupt { context: String::new() }), Trouble::Lasting(_)));
    }

    #[test]
    fn what_is_in_the_log_is_not_asked_for_again_whatever_failed_behind_it() {
        let follower = following(LogConfig { flush_messages: 1, ..LogConfig::default() });
        let in_the_way = follower.root.path().join("t-0/leader-epoch-checkpoint.tmp");
        std::fs::create_dir(in_the_way).expect("writable");
        let task = Task::Append(from_leader(0, batch(4, 0, 10), 0, 0));
        let work = Work { partition: follower.partition.name().clone(), stay: 1, leader_epoch: EPOCH, task };
        let done = done(&follower.partition, work, NOW_MS);
        let Err(Trouble::Passing { position, .. }) = done.outcome else { panic!("{done:?}") };
        assert_eq!((position.log_end_offset, position.last_epoch), (Offset(10), Some(LeaderEpoch(4))));
    }

    #[test]
    fn what_is_not_on_the_disk_is_not_acknowledged_by_asking_for_what_comes_next() {
        let config = LogConfig { flush_before_acknowledgement: true, ..LogConfig::default() };
        let follower = following(config);
        let partition = &follower.partition;
        let end = || partition.follower_position(EPOCH).expect("it follows").log_end_offset;
        // As a broker finds them that was killed before its fsync.
        partition.append_from_leader(&from_leader(0, batch(4, 0, 10), 0, 0), NOW_MS).expect("appended");
        assert_eq!(end(), Offset(0));
        let sent_again = Task::Append(from_leader(0, batch(4, 0, 10), 0, 0));
        let work = |task| Work { partition: partition.name().clone(), stay: 1, leader_epoch: EPOCH, task };
        let settled = done(partition, work(sent_again), NOW_MS).outcome.expect("flushed");
        assert_eq!(settled.position.log_end_offset, Offset(10));
        let next = Task::Append(from_leader(10, batch(4, 10, 10), 0, 0));
        let settled = done(partition, work(next), NOW_MS).outcome.expect("appended and flushed");
        assert_eq!((settled.position.log_end_offset, end()), (Offset(20), Offset(20)));
    }

    /// As when another leader is elected while they are: what is asked of that one begins where the disk ends.
    #[test]
    fn what_reaches_the_disk_after_it_was_asked_for_again_is_not_appended_twice() {
        let config = LogConfig { flush_before_acknowledgement: true, ..LogConfig::default() };
        let follower = following(config);
        let partition = &follower.partition;
        partition.append_from_leader(&from_leader(0, batch(4, 0, 10), 0, 0), NOW_MS).expect("appended");
        let asked = partition.follower_position(EPOCH).expect("it follows").log_end_offset;
        partition.flush_before_acknowledgement(NOW_MS).expect("flushed");
        let task = Task::Append(from_leader(asked.0, batch(4, asked.0, 10), 0, 0));
        let work = Work { partition: partition.name().clone(), stay: 2, leader_epoch: EPOCH, task };
        let settled = done(partition, work, NOW_MS).outcome.expect("it goes on from there");
        assert_eq!((asked, settled.position.log_end_offset), (Offset(0), Offset(10)));
    }
}
