//! Which replica leads, and who counts as in sync, as functions of what is online.
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/controller/{Election,PartitionStateMachine,ReplicaStateMachine}.scala.
use std::collections::BTreeSet;

use crate::controller::state::{LeaderAndIsr, Liveness};
use crate::model::BrokerId;

/// May a replica outside the ISR lead when no other is left (`unclean.leader.election.enable`)?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclean {
    Allowed,
    Refused,
    /// The topic's configuration has not been read yet.
    Unknown,
}

/// What becomes of a partition after replicas went online or offline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Unchanged,
    Changed {
        leader: Option<BrokerId>,
        isr: Vec<BrokerId>,
        unclean: bool,
    },
    /// It depends on whether an unclean election is allowed.
    Undecided,
}

/// The first leader and ISR of a new partition: the first replica online leads, all that are online are in sync.
pub fn first(replicas: &[BrokerId], is_online: impl Fn(BrokerId) -> bool) -> Option<(BrokerId, Vec<BrokerId>)> {
    let isr: Vec<BrokerId> = replicas.iter().copied().filter(|replica| is_online(*replica)).collect();
    isr.first().map(|leader| (*leader, isr.clone()))
}

/// Replicas that are offline or about to leave do so from the ISR too, and another leads if the leader is among them. A
/// leader that is about to leave goes on where no other can lead. As long as no member of the ISR is online, the ISR
/// stays, since only its members have everything that was committed.
pub fn settled(
    current: &LeaderAndIsr,
    replicas: &[BrokerId],
    liveness: impl Fn(BrokerId) -> Liveness,
    unclean: Unclean,
) -> Outcome {
    let is_online = |replica| liveness(replica) == Liveness::Online;
    let isr: Vec<BrokerId> = current.isr.iter().copied().filter(|replica| is_online(*replica)).collect();
    if let Some(leader) = current.leader.filter(|leader| is_online(*leader)) {
        return match isr.contains(&leader) && isr.len() < current.isr.len() {
            true => Outcome::Changed { leader: Some(leader), isr, unclean: false },
            false => Outcome::Unchanged,
        };
    }
    if let Some(leader) = replicas.iter().copied().find(|replica| isr.contains(replica)) {
        return Outcome::Changed { leader: Some(leader), isr, unclean: false };
    }
    let is_leaving = |leader: &BrokerId| liveness(*leader) == Liveness::Leaving && current.isr.contains(leader);
    if let Some(leader) = current.leader.filter(is_leaving) {
        return match current.isr.len() {
            1 => Outcome::Unchanged,
            _ => Outcome::Changed { leader: Some(leader), isr: vec![leader], unclean: false },
        };
    }
    if let Some(survivor) = replicas.iter().copied().find(|replica| is_online(*replica)) {
        match unclean {
            Unclean::Unknown => return Outcome::Undecided,
            Unclean::Allowed => {
                return Outcome::Changed { leader: Some(survivor), isr: vec![survivor], unclean: true };
            }
            Unclean::Refused => {}
        }
    }
    match current.leader {
        None => Outcome::Unchanged,
        Some(_) => Outcome::Changed { leader: None, isr: current.isr.clone(), unclean: false },
    }
}

/// The same where some members of the ISR have gone and come back and nobody has seen it: they may have lost what they had.
/// As long as any other member can lead they are no more in sync than one that is about to leave. If none can, nobody
/// knows who of them has what was committed, and the ISR stays; but what they agree on from now on is of another epoch, so
/// that their logs are cut to where they are the same.
pub fn settled_after_bounces(
    current: &LeaderAndIsr,
    replicas: &[BrokerId],
    bounced: &BTreeSet<BrokerId>,
    liveness: impl Fn(BrokerId) -> Liveness,
    unclean: Unclean,
) -> Outcome {
    let may_lead = |member: &BrokerId| !bounced.contains(member) && liveness(*member) == Liveness::Online;
    if replicas.iter().filter(|replica| current.isr.contains(replica)).any(may_lead) {
        let liveness = |replica| match liveness(replica) {
            Liveness::Online if bounced.contains(&replica) => Liveness::Leaving,
            liveness => liveness,
        };
        return settled(current, replicas, liveness, unclean);
    }
    match (settled(current, replicas, liveness, unclean), current.leader) {
        (Outcome::Unchanged, leader @ Some(_)) => Outcome::Changed { leader, isr: current.isr.clone(), unclean: false },
        (outcome, _) => outcome,
    }
}

/// The preferred replica is the first of the assignment; it leads if it is online and in sync.
pub fn preferred(
    current: &LeaderAndIsr,
    replicas: &[BrokerId],
    is_online: impl Fn(BrokerId) -> bool,
) -> Option<BrokerId> {
    replicas.first().copied().filter(|preferred| is_online(*preferred) && current.isr.contains(preferred))
}

/// The leader and ISR of a partition that is moving, of these replicas alone: its leader stays if it may. `None` when
/// nobody in sync would be left.
pub fn reassigned(
    current: &LeaderAndIsr,
    replicas: &[BrokerId],
    liveness: impl Fn(BrokerId) -> Liveness,
) -> Option<(Option<BrokerId>, Vec<BrokerId>)> {
    let in_sync: Vec<BrokerId> = current.isr.iter().copied().filter(|member| replicas.contains(member)).collect();
    let alive = |member: &BrokerId| liveness(*member) != Liveness::Offline;
    let leader = current.leader.filter(|leader| in_sync.contains(leader) && alive(leader));
    let is_electable = |replica: &BrokerId| in_sync.contains(replica) && liveness(*replica) == Liveness::Online;
    let leader = leader.or_else(|| replicas.iter().copied().find(is_electable));
    (!in_sync.is_empty()).then_some((leader, in_sync))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ControllerEpoch, LeaderEpoch, PartitionEpoch};

    fn ids(ids: &[i32]) -> Vec<BrokerId> {
        ids.iter().copied().map(BrokerId).collect()
    }

    fn leadership(leader: Option<i32>, isr: &[i32]) -> LeaderAndIsr {
        LeaderAndIsr {
            leader: leader.map(BrokerId),
            leader_epoch: LeaderEpoch(5),
            isr: ids(isr),
            recovering: false,
            controller_epoch: ControllerEpoch(1),
            partition_epoch: PartitionEpoch(9),
        }
    }

    fn alive(is_online: bool) -> Liveness {
        if is_online { Liveness::Online } else { Liveness::Offline }
    }

    #[test]
    fn the_first_online_replica_of_the_assignment_leads_a_new_partition() {
        let online = |broker: BrokerId| broker != BrokerId(3);
        assert_eq!(first(&ids(&[3, 1, 2]), online), Some((BrokerId(1), ids(&[1, 2]))));
        assert_eq!(first(&ids(&[3]), online), None);
    }

    /// Every leader (or none), ISR and set of online brokers of three replicas.
    #[test]
    fn a_clean_election_never_leaves_the_isr_and_loses_no_committed_record() {
        let replicas = ids(&[2, 1, 3]);
        for leader in [None, Some(1), Some(2), Some(3)] {
            for isr_bits in 1..8 {
                for online_bits in 0..8 {
                    let members = |bits: i32| {
                        ids(&[1, 2, 3].into_iter().filter(|id| bits & (1 << (id - 1)) != 0).collect::<Vec<_>>())
                    };
                    let (isr, online) = (members(isr_bits), members(online_bits));
                    if leader.is_some_and(|leader| !isr.contains(&BrokerId(leader))) {
                        continue;
                    }
                    let current = LeaderAndIsr { isr: isr.clone(), ..leadership(leader, &[]) };
                    let case = format!("leader {leader:?}, isr {isr:?}, online {online:?}");
                    match settled(&current, &replicas, |id| alive(online.contains(&id)), Unclean::Refused) {
                        Outcome::Undecided => panic!("nothing is undecided when unclean elections are refused: {case}"),
                        Outcome::Unchanged => {
                            let stays = match current.leader {
                                Some(leader) => online.contains(&leader) && isr.iter().all(|id| online.contains(id)),
                                None => isr.iter().all(|id| !online.contains(id)),
                            };
                            assert!(stays, "{case}");
                        }
                        Outcome::Changed { leader: Some(elected), isr: left, unclean } => {
                            assert!(!unclean && isr.contains(&elected) && online.contains(&elected), "{case}");
                            assert!(left.contains(&elected), "{case}");
                            let expected: Vec<_> = isr.iter().copied().filter(|id| online.contains(id)).collect();
                            assert_eq!(left, expected, "{case}");
                            // A leader that is online is never deposed; otherwise the assignment's order decides.
                            match current.leader.filter(|leader| online.contains(leader)) {
                                Some(leader) => assert_eq!(elected, leader, "{case}"),
                                None => assert_eq!(
                                    Some(elected),
                                    replicas.iter().copied().find(|id| left.contains(id)),
                                    "{case}"
                                ),
                            }
                        }
                        Outcome::Changed { leader: None, isr: left, unclean } => {
                            assert!(!unclean && left == isr && isr.iter().all(|id| !online.contains(id)), "{case}");
                            assert!(current.leader.is_some(), "{case}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn an_unclean_election_happens_only_where_it_is_allowed_and_nobody_in_sync_is_left() {
        let current = leadership(Some(1), &[1]);
        let online = |broker: BrokerId| alive(broker == BrokerId(2));
        let replicas = ids(&[1, 2]);
        assert_eq!(settled(&current, &replicas, online, Unclean::Unknown), Outcome::Undecided);
        assert_eq!(
            settled(&current, &replicas, online, Unclean::Allowed),
            Outcome::Changed { leader: Some(BrokerId(2)), isr: ids(&[2]), unclean: true }
        );
        assert_eq!(
            settled(&current, &replicas, online, Unclean::Refused),
            Outcome::Changed { leader: None, isr: ids(&[1]), unclean: false }
        );
        assert_eq!(settled(&current, &replicas, |_| Liveness::Online, Unclean::Allowed), Outcome::Unchanged);
    }

    #[test]
    fn who_is_about_to_leave_is_not_in_sync_and_leads_only_where_nobody_else_can() {
        let replicas = ids(&[1, 2, 3]);
        let changed =
            |leader, isr: &[i32]| Outcome::Changed { leader: Some(BrokerId(leader)), isr: ids(isr), unclean: false };
        let leaving = |leaving: &'static [i32]| {
            move |id: BrokerId| if leaving.contains(&id.0) { Liveness::Leaving } else { Liveness::Online }
        };
        let settle = |leader, isr: &[i32], gone| {
            settled(&leadership(Some(leader), isr), &replicas, leaving(gone), Unclean::Allowed)
        };
        assert_eq!(settle(1, &[1, 3, 2], &[1]), changed(2, &[3, 2]));
        assert_eq!(settle(1, &[1, 2, 3], &[1, 2]), changed(3, &[3]));
        assert_eq!(settle(1, &[1, 2, 3], &[2]), changed(1, &[1, 3]));
        assert_eq!(settle(1, &[1, 2], &[2, 1]), changed(1, &[1]));
        assert_eq!(settle(1, &[1], &[1]), Outcome::Unchanged, "an unclean election is none of its business");
        let nobody = leadership(None, &[1, 2]);
        assert_eq!(settled(&nobody, &ids(&[1, 2]), leaving(&[1, 2]), Unclean::Allowed), Outcome::Unchanged);
    }

    #[test]
    fn members_that_have_bounced_leave_the_isr_to_those_that_have_not() {
        let replicas = ids(&[1, 2, 3]);
        let changed =
            |leader, isr: &[i32]| Outcome::Changed { leader: Some(BrokerId(leader)), isr: ids(isr), unclean: false };
        let settle = |leader, isr: &[i32], bounced: &[i32], gone: &[i32]| {
            let bounced = bounced.iter().copied().map(BrokerId).collect();
            let liveness = |id: BrokerId| alive(!gone.contains(&id.0));
            settled_after_bounces(&leadership(leader, isr), &replicas, &bounced, liveness, Unclean::Allowed)
        };
        assert_eq!(settle(Some(1), &[1, 2, 3], &[1], &[]), changed(2, &[2, 3]));
        assert_eq!(settle(Some(1), &[1, 2, 3], &[1, 2], &[]), changed(3, &[3]));
        assert_eq!(settle(Some(1), &[1, 2, 3], &[2], &[]), changed(1, &[1, 3]), "its leader is as it was");
        assert_eq!(settle(Some(1), &[1, 2, 3], &[1], &[2]), changed(3, &[3]), "others are gone");
        // Nobody is left who has not.
        assert_eq!(settle(Some(2), &[1, 2, 3], &[1, 2, 3], &[]), changed(2, &[1, 2, 3]));
        assert_eq!(settle(Some(2), &[2], &[2], &[]), changed(2, &[2]));
        assert_eq!(settle(Some(2), &[2, 3], &[2], &[3]), changed(2, &[2]), "as if it had not");
        assert_eq!(settle(Some(3), &[2, 3], &[2], &[3]), changed(2, &[2]));
        assert_eq!(settle(None, &[2, 3], &[2, 3], &[]), changed(2, &[2, 3]));
        assert_eq!(settle(None, &[2, 3], &[2], &[1, 2, 3]), Outcome::Unchanged, "nobody can lead");
    }

    #[test]
    fn the_preferred_replica_leads_if_it_is_online_and_in_sync() {
        let replicas = ids(&[2, 1]);
        let in_sync = leadership(Some(1), &[1, 2]);
        assert_eq!(preferred(&in_sync, &replicas, |_| true), Some(BrokerId(2)));
        assert_eq!(preferred(&in_sync, &replicas, |id| id != BrokerId(2)), None);
        assert_eq!(preferred(&leadership(Some(1), &[1]), &replicas, |_| true), None);
        assert_eq!(preferred(&in_sync, &[], |_| true), None);
    }

    #[test]
    fn a_partition_that_moves_keeps_its_leader_if_it_may_and_its_isr_in_any_case() {
        let liveness = |id: BrokerId| match id.0 {
            7 => Liveness::Offline,
            8 => Liveness::Leaving,
            _ => Liveness::Online,
        };
        let moved = |leader: i32, isr: &[i32], replicas: &[i32]| {
            reassigned(&leadership(Some(leader), isr), &ids(replicas), liveness)
        };
        let found = |leader: i32, isr: &[i32]| Some((Some(BrokerId(leader)), ids(isr)));
        assert_eq!(moved(1, &[1, 2, 3], &[3, 1]), found(1, &[1, 3]));
        assert_eq!(moved(1, &[1, 2, 3], &[3, 2]), found(3, &[2, 3]), "the order of the replicas decides");
        assert_eq!(moved(1, &[2], &[1, 2]), found(2, &[2]), "a leader is in sync");
        assert_eq!(moved(7, &[7, 2], &[7, 2]), found(2, &[7, 2]));
        assert_eq!(moved(7, &[7], &[7]), Some((None, ids(&[7]))));
        assert_eq!(moved(8, &[8, 1], &[1, 8]), found(8, &[8, 1]), "who is about to leave goes on");
        assert_eq!(moved(1, &[1, 8, 2], &[8, 2]), found(2, &[8, 2]), "and is not elected");
        assert_eq!(moved(1, &[1], &[2]), None, "nobody in sync would be left");
    }
}
