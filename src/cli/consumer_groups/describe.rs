//! `--describe`: the offsets, members and states of groups.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use super::{described, group_ids};
use crate::cli::options::{Options, Stop};
use crate::cli::table::{print_rows, width_of};
use crate::client::admin::{Committed, CommittedOffset, FoundOffsets, LATEST, by_topic};
use crate::client::cluster::{Cluster, Node};
use crate::client::error::ClientError;
use crate::client::group::assigned_partitions;
use crate::model::TopicPartition;
use crate::protocol::messages::describe_groups::DescribedGroup;

/// Says what there is to say of the group as such. Whether its rows are to be printed.
fn print_state_notice(group: &str, state: &str, row_count: usize, out: &mut dyn Write) -> std::io::Result<bool> {
    match state {
        "Dead" => writeln!(out, "\nError: Consumer group '{group}' does not exist.")?,
        "Empty" => complain!("\nConsumer group '{group}' has no active members."),
        "PreparingRebalance" | "CompletingRebalance" | "Assigning" | "Reconciling" => {
            complain!("\nWarning: Consumer group '{group}' is rebalancing.");
        }
        _ => {}
    }
    Ok(state != "Dead" && row_count > 0)
}

/// One line of `--describe`; what is not known is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OffsetRow {
    partition: Option<TopicPartition>,
    current: Option<i64>,
    end: Option<i64>,
    /// Member id, host, client id.
    owner: Option<(String, String, String)>,
}

fn text<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn print_offsets(group: &str, rows: &[OffsetRow], out: &mut dyn Write) -> std::io::Result<()> {
    const HEADER: [&str; 9] =
        ["GROUP", "TOPIC", "PARTITION", "CURRENT-OFFSET", "LOG-END-OFFSET", "LAG", "CONSUMER-ID", "HOST", "CLIENT-ID"];
    let mut table = vec![HEADER.map(str::to_owned).to_vec()];
    for row in rows {
        let lag = row.current.filter(|current| *current != -1).and_then(|current| Some(row.end? - current));
        let (member, host, client) = match &row.owner {
            Some((member, host, client)) => (member.as_str(), host.as_str(), client.as_str()),
            None => ("-", "-", "-"),
        };
        table.push(vec![
            group.to_owned(),
            text(row.partition.as_ref().map(|partition| &*partition.topic)),
            text(row.partition.as_ref().map(|partition| partition.partition)),
            text(row.current),
            text(row.end),
            text(lag),
            member.to_owned(),
            host.to_owned(),
            client.to_owned(),
        ]);
    }
    let column = |index: usize| width_of(15, table.iter().map(move |row| row[index].as_str()));
    let widths = [column(0), column(1), 10, 15, 15, 15, column(6), column(7)];
    writeln!(out)?;
    print_rows(&table, &widths, out)
}

/// What each member owns, the busiest member first, then what nobody owns.
fn offset_rows(
    group: &DescribedGroup,
    committed: &BTreeMap<TopicPartition, Option<CommittedOffset>>,
    ends: &FoundOffsets,
) -> Result<Vec<OffsetRow>, ClientError> {
    let row = |partition: &TopicPartition, owner| OffsetRow {
        partition: Some(partition.clone()),
        current: committed.get(partition).and_then(Option::as_ref).map(|committed| committed.offset),
        end: ends.get(partition).and_then(|found| found.ok()).map(|found| found.offset),
        owner,
    };
    let mut members = Vec::new();
    for member in &group.members {
        let mut partitions = assigned_partitions(&member.member_assignment)?;
        partitions.sort_unstable();
        members.push((partitions, member));
    }
    members.retain(|(partitions, _)| !partitions.is_empty());
    members.sort_by_key(|(partitions, _)| std::cmp::Reverse(partitions.len()));
    let mut rows = Vec::new();
    let mut owned = BTreeSet::new();
    for (partitions, member) in &members {
        for partition in partitions {
            let owner = (member.member_id.clone(), member.client_host.clone(), member.client_id.clone());
            rows.push(row(partition, Some(owner)));
            owned.insert(partition);
        }
    }
    rows.extend(committed.keys().filter(|partition| !owned.contains(partition)).map(|partition| row(partition, None)));
    Ok(rows)
}

pub(super) async fn describe(options: &Options, cluster: &Cluster, out: &mut dyn Write) -> Result<(), Stop> {
    let mut groups = BTreeMap::new();
    for id in group_ids(options, cluster).await? {
        let group = described(cluster, &id).await?.map_err(Stop::Failed)?;
        groups.insert(id, group);
    }
    for (id, group) in groups {
        let Some((group, coordinator)) = group else {
            writeln!(out, "\nError: Consumer group '{id}' does not exist.")?;
            continue;
        };
        if options.has("members") {
            print_state_notice(&id, &group.group_state, group.members.len(), out)?;
            print_members(&group, options.has("verbose"), out)?;
        } else if options.has("state") {
            if print_state_notice(&id, &group.group_state, 1, out)? {
                print_group_state(&group, &coordinator, out)?;
            }
        } else {
            let committed = cluster.committed_offsets(&id, None, Committed::AsKnown).await?;
            let mut asked: BTreeMap<TopicPartition, i64> =
                committed.keys().map(|partition| (partition.clone(), LATEST)).collect();
            for member in &group.members {
                asked.extend(assigned_partitions(&member.member_assignment)?.into_iter().map(|p| (p, LATEST)));
            }
            let ends = cluster.list_offsets(&asked, false).await?;
            let rows = offset_rows(&group, &committed, &ends)?;
            if print_state_notice(&id, &group.group_state, rows.len(), out)? {
                print_offsets(&id, &rows, out)?;
            }
        }
    }
    Ok(())
}

fn print_members(group: &DescribedGroup, verbose: bool, out: &mut dyn Write) -> Result<(), Stop> {
    let with_instance = group.members.iter().any(|member| member.group_instance_id.is_some());
    let mut table = vec![vec!["GROUP".to_owned(), "CONSUMER-ID".to_owned()]];
    if with_instance {
        table[0].push("GROUP-INSTANCE-ID".to_owned());
    }
    table[0].extend(["HOST", "CLIENT-ID", "#PARTITIONS"].map(str::to_owned));
    table[0].push(if verbose { "ASSIGNMENT".to_owned() } else { String::new() });
    for member in &group.members {
        let partitions = assigned_partitions(&member.member_assignment)?;
        let mut row = vec![group.group_id.clone(), member.member_id.clone()];
        if with_instance {
            row.push(member.group_instance_id.clone().unwrap_or_default());
        }
        row.extend([member.client_host.clone(), member.client_id.clone(), partitions.len().to_string()]);
        row.push(match verbose {
            false => String::new(),
            true if partitions.is_empty() => "-".to_owned(),
            true => {
                // 3.9 leaves the topics' names out.
                let mut lists: Vec<String> = by_topic(partitions.iter().map(|partition| (partition, ())))
                    .into_values()
                    .map(|partitions| {
                        let mut ids: Vec<String> = partitions.iter().map(|(id, ())| id.to_string()).collect();
                        ids.sort_unstable();
                        format!("({})", ids.join(","))
                    })
                    .collect();
                lists.sort_unstable();
                lists.join(", ")
            }
        });
        table.push(row);
    }
    let column = |index: usize| width_of(15, table.iter().map(move |row| row[index].as_str()));
    let mut widths = vec![column(0), column(1)];
    if with_instance {
        widths.push(column(2).max(17));
    }
    widths.extend([column(widths.len()), column(widths.len() + 1), 15]);
    writeln!(out)?;
    Ok(print_rows(&table, &widths, out)?)
}

fn print_group_state(group: &DescribedGroup, coordinator: &Node, out: &mut dyn Write) -> std::io::Result<()> {
    let coordinator = format!("{}:{}  ({})", coordinator.host, coordinator.port, coordinator.id);
    let rows = [
        ["GROUP", "COORDINATOR (ID)", "ASSIGNMENT-STRATEGY", "STATE", "#MEMBERS"].map(str::to_owned).to_vec(),
        vec![
            group.group_id.clone(),
            coordinator.clone(),
            group.protocol_data.clone(),
            group.group_state.clone(),
            group.members.len().to_string(),
        ],
    ];
    // The width of the coordinator's column goes to the group's, as in Kafka's tool.
    writeln!(out)?;
    print_rows(&rows, &[coordinator.len().max(25), 25, 20, 15], out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::admin::FoundOffset;
    use crate::protocol::error_code::ErrorCode;

    #[test]
    fn a_description_has_a_row_per_partition_and_dashes_for_what_is_not_known() {
        let committed = |offset| Some(CommittedOffset { offset, leader_epoch: -1, metadata: None });
        let committed = BTreeMap::from([
            (TopicPartition::new("t", 1), committed(3)),
            (TopicPartition::new("t", 0), committed(2)),
            (TopicPartition::new("t", 2), None),
        ]);
        let ends = FoundOffsets::from([
            (TopicPartition::new("t", 0), Ok(FoundOffset { offset: 12, leader_epoch: 0 })),
            (TopicPartition::new("t", 1), Err(ErrorCode::UnknownTopicOrPartition)),
            (TopicPartition::new("t", 2), Ok(FoundOffset { offset: 5, leader_epoch: 0 })),
        ]);
        let rows = offset_rows(&DescribedGroup::default(), &committed, &ends).unwrap();
        let mut out = Vec::new();
        print_offsets("g", &rows, &mut out).unwrap();
        let expected = "\n\
            GROUP           TOPIC           PARTITION  CURRENT-OFFSET  LOG-END-OFFSET  LAG             CONSUMER-ID     HOST            CLIENT-ID\n\
            g               t               0          2               12              10              -               -               -\n\
            g               t               1          3               -               -               -               -               -\n\
            g               t               2          -               5               -               -               -               -\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
