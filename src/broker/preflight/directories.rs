//! What stands in the log directories, and whether the machine has room for them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use rustix::process::{Resource, getrlimit};

use crate::broker::preflight::cluster::Cluster;
use crate::broker::preflight::report::{Report, few, size};
use crate::log::dirs::survey::{DirSurvey, SurveyedPartition, survey as survey_dir};
use crate::log::error::LogError;
use crate::model::TopicId;

const ABOUT: &str = "log directories";

/// What a broker takes beside its partitions, and for each of them (README, "What peers can make it hold").
const RESIDENT_BYTES: u64 = 32 << 20;
const RESIDENT_BYTES_A_PARTITION: u64 = 10 << 10;

/// A log directory; without a survey it does not exist.
pub type Surveyed = (PathBuf, Result<Option<DirSurvey>, LogError>);

pub fn survey(dirs: Vec<PathBuf>) -> Vec<Surveyed> {
    let survey = |dir: PathBuf| {
        let found = if dir.exists() { survey_dir(&dir).map(Some) } else { Ok(None) };
        (dir, found)
    };
    dirs.into_iter().map(survey).collect()
}

fn usable(surveyed: &[Surveyed]) -> impl Iterator<Item = (&PathBuf, &DirSurvey)> {
    surveyed.iter().filter_map(|(path, found)| Some((path, found.as_ref().ok()?.as_ref()?)))
}

/// The id that the directories say, where the settings leave it to them.
pub fn stored_broker_id(surveyed: &[Surveyed]) -> Option<i32> {
    usable(surveyed).find_map(|(_, dir)| Some(dir.metadata.as_ref().ok()?.as_ref()?.broker_id()?.0))
}

pub fn look(surveyed: &[Surveyed], id: Option<i32>, cluster: Option<&Cluster>, report: &mut Report) {
    let unusable = surveyed.iter().filter(|(_, found)| found.is_err()).count();
    for (path, found) in surveyed {
        match found {
            Ok(Some(dir)) => look_at(&path.display().to_string(), dir, id, cluster, report),
            Ok(None) => report.warn(ABOUT, format!("{} does not exist, and would be created", path.display())),
            Err(why) if unusable == surveyed.len() => report.refuse(ABOUT, why.to_string()),
            Err(why) => report.warn(ABOUT, format!("{why}: the directory would be offline")),
        }
    }
    let mut places: BTreeMap<_, Vec<(String, Option<TopicId>)>> = BTreeMap::new();
    let live = |partition: &&SurveyedPartition| !(partition.is_future || partition.is_stray || partition.is_deleting);
    for (path, dir) in usable(surveyed) {
        for partition in dir.partitions.iter().filter(live) {
            places
                .entry(&partition.topic_partition)
                .or_default()
                .push((path.display().to_string(), partition.topic_id));
        }
    }
    for (name, places) in places.iter().filter(|(_, places)| places.len() > 1) {
        let ids: BTreeSet<_> = places.iter().filter_map(|(_, id)| *id).collect();
        let paths: Vec<&str> = places.iter().map(|(path, _)| path.as_str()).collect();
        let found = format!("{name} is in {}", paths.join(" and in "));
        if ids.len() > 1 {
            report.refuse(ABOUT, format!("{found}, of two topics of that name: one of them must go"));
        } else {
            report.warn(
                ABOUT,
                format!(
                    "{found}: the longer would go on if the other is its beginning, as a move leaves it that is cut short, and \
                     the start be refused if not; a JVM broker does not start with both"
                ),
            );
        }
    }
    look_at_the_machine(places.len().max(cluster.map_or(0, |cluster| cluster.hosted.len())), report);
}

fn look_at(path: &str, dir: &DirSurvey, id: Option<i32>, cluster: Option<&Cluster>, report: &mut Report) {
    match &dir.metadata {
        Err(why @ LogError::StartRefused { .. }) => report.refuse(ABOUT, why.to_string()),
        Err(why) => report.warn(ABOUT, format!("{why}: the directory would be offline")),
        Ok(None) => report.note(ABOUT, format!("{path} is new: it has no meta.properties")),
        Ok(Some(metadata)) => {
            let stored = metadata.broker_id().map(|id| id.0);
            if let (Some(stored), Some(id)) = (stored, id)
                && stored != id
            {
                report.refuse(ABOUT, format!("{path} belongs to broker {stored}, and the settings say {id}"));
            }
            let cluster_id = cluster.and_then(|cluster| cluster.id.as_deref());
            if let (Some(stored), Some(cluster_id)) = (metadata.cluster_id(), cluster_id)
                && stored != cluster_id
            {
                report
                    .refuse(ABOUT, format!("{path} belongs to the cluster {stored}, and ZooKeeper holds {cluster_id}"));
            }
        }
    }
    if !dir.foreign.is_empty() {
        report.refuse(
            ABOUT,
            format!(
                "{path} has directories that are no partitions, and no broker starts with them: {}",
                few(&dir.foreign)
            ),
        );
    }
    if !dir.broken_links.is_empty() {
        report.warn(
            ABOUT,
            format!(
                "{path} has links that lead nowhere, and partitions there would be offline: {}",
                few(&dir.broken_links)
            ),
        );
    }
    dir.damaged.iter().for_each(|what| report.warn(ABOUT, format!("{what}: what it said is made up for")));

    let bytes: u64 = dir.partitions.iter().map(|partition| partition.bytes).sum();
    report.note(ABOUT, format!("{path}: {} directories of partitions with {}", dir.partitions.len(), size(bytes)));
    match (dir.lock_holder, dir.had_clean_shutdown) {
        (Some(pid), _) => {
            let who =
                if pid > 0 { format!("process {pid}") } else { "a process that cannot be seen from here".to_owned() };
            report.note(ABOUT, format!("{path} is in use by {who}: stop that broker first, and wait for its end"));
        }
        (None, true) => report.note(ABOUT, format!("{path} was shut down cleanly")),
        (None, false) if dir.partitions.is_empty() => {}
        (None, false) => {
            let unflushed: u64 = dir.partitions.iter().map(|partition| partition.unflushed_bytes).sum();
            report.warn(
                ABOUT,
                format!("{path} was not shut down cleanly: a start, of either kind, first reads {}", size(unflushed)),
            );
        }
    }
    let named = |choose: &dyn Fn(&SurveyedPartition) -> bool| -> Vec<String> {
        let chosen = dir.partitions.iter().filter(|partition| choose(partition));
        chosen.map(|partition| partition.topic_partition.to_string()).collect()
    };
    let future = named(&|partition| partition.is_future);
    if !future.is_empty() {
        report.note(ABOUT, format!("{path}: moves to this directory have begun, and would go on: {}", few(&future)));
    }
    let strays = named(&|partition| partition.is_stray);
    if !strays.is_empty() {
        report.note(ABOUT, format!("{path}: put aside by an earlier broker, and left alone: {}", few(&strays)));
    }
    let noted = named(&|partition| !partition.unknown_files.is_empty());
    if !noted.is_empty() {
        let files: Vec<&String> = dir.partitions.iter().flat_map(|partition| &partition.unknown_files).collect();
        report.note(
            ABOUT,
            format!("{path}: files that are not known here, and left alone ({}) in {}", few(&files), few(&noted)),
        );
    }
    if let Some(cluster) = cluster {
        let is_live = |partition: &SurveyedPartition| !(partition.is_deleting || partition.is_stray);
        let gone = named(&|partition| is_live(partition) && !cluster.hosted.contains(&partition.topic_partition));
        if !gone.is_empty() {
            report.warn(
                ABOUT,
                format!("{path}: not assigned to this broker, so they would be left where they are: {}", few(&gone)),
            );
        }
        let other = named(&|partition| {
            let assigned = cluster.topic_ids.get(&partition.topic_partition.topic);
            is_live(partition) && matches!((assigned, partition.topic_id), (Some(a), Some(b)) if *a != b)
        });
        if !other.is_empty() {
            report.warn(
                ABOUT,
                format!("{path}: left by an earlier topic of the same name, and refused by brokers: {}", few(&other)),
            );
        }
    }
    if dir.free_bytes < dir.total_bytes / 20 {
        report.warn(ABOUT, format!("{path} has {} free of {}", size(dir.free_bytes), size(dir.total_bytes)));
    } else {
        report.note(ABOUT, format!("{path} has {} free", size(dir.free_bytes)));
    }
}

fn look_at_the_machine(partitions: usize, report: &mut Report) {
    const ABOUT: &str = "machine";
    let needed = RESIDENT_BYTES + RESIDENT_BYTES_A_PARTITION * partitions as u64;
    let text = format!("{partitions} partitions need some {} of memory, and the page cache the rest", size(needed));
    match available_bytes() {
        Some(available) if available < needed => {
            report.warn(ABOUT, format!("{text}; {} are available now", size(available)));
        }
        Some(available) => report.note(ABOUT, format!("{text}; {} are available now", size(available))),
        None => report.note(ABOUT, text),
    }
    // Raised at the start to what the system grants. Connections get three quarters of them.
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let wanted = 1024 + partitions as u64;
    if limit < wanted {
        report.warn(
            ABOUT,
            format!("ulimit -Hn is {limit}: fewer than {wanted}, one for each partition and 1024 connections"),
        );
    } else {
        report
            .note(ABOUT, format!("ulimit -Hn is {limit}, and one for each partition is enough beside the connections"));
    }
}

/// As /proc/meminfo has it.
fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn want_of_room_is_told() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let mut surveyed = survey(vec![root.path().to_owned()]);
        let mut told = |free: u64| {
            let Ok(Some(dir)) = &mut surveyed[0].1 else { panic!("it is there") };
            (dir.free_bytes, dir.total_bytes) = (free, 2000 << 30);
            let mut report = Report::default();
            look(&surveyed, None, None, &mut report);
            report.to_text()
        };
        let path = root.path().display();
        let text = told(99 << 30);
        assert!(text.contains(&format!("WARN {path} has 99.0 GiB free of 2.0 TiB")), "{text}");
        let text = told(100 << 30);
        assert!(text.contains(&format!("     {path} has 100.0 GiB free")), "{text}");

        // More partitions than any machine has room for.
        let mut report = Report::default();
        look_at_the_machine(1 << 40, &mut report);
        let text = report.to_text();
        for what in ["WARN 1099511627776 partitions need some 10240.0 TiB of memory", "WARN ulimit -Hn is "] {
            assert!(text.contains(what), "nothing of {what} in\n{text}");
        }
        let mut report = Report::default();
        look_at_the_machine(0, &mut report);
        assert!(!report.to_text().contains("WARN 0 partitions"), "{}", report.to_text());
    }

    #[test]
    fn what_a_start_settles_by_itself_does_not_stand_against_it() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let dirs: Vec<PathBuf> = ["a", "b"].map(|name| root.path().join(name)).into();
        let moved = "moved-0.0123456789abcdef0123456789abcdef-future";
        for name in ["a/twice-0", "b/twice-0", &format!("b/{moved}"), "a/other-0", "b/other-0"] {
            fs::create_dir_all(root.path().join(name)).expect("writable");
        }
        symlink(root.path().join("gone"), root.path().join("a/linked-0")).expect("writable");
        let told = || {
            let mut report = Report::default();
            look(&survey(dirs.clone()), None, None, &mut report);
            report
        };
        let text = told().to_text();
        assert_eq!(told().exit_status(), 1, "{text}");
        let dir = |name: &str| root.path().join(name).display().to_string();
        for what in [
            format!("WARN twice-0 is in {} and in {}: the longer would go on", dir("a"), dir("b")),
            format!("       {}: moves to this directory have begun, and would go on: moved-0", dir("b")),
            format!("WARN {} has links that lead nowhere", dir("a")),
        ] {
            assert!(text.contains(&what), "nothing of {what} in\n{text}");
        }
        for (place, id) in [("a", "AAAAAAAAAAAAAAAAAAAAAQ"), ("b", "AAAAAAAAAAAAAAAAAAAAAg")] {
            let text = format!("version: 0\ntopic_id: {id}");
            fs::write(root.path().join(place).join("other-0/partition.metadata"), text).expect("writable");
        }
        let text = told().to_text();
        let what = format!("NO   other-0 is in {} and in {}, of two topics", dir("a"), dir("b"));
        assert!(text.contains(&what), "nothing of {what} in\n{text}");
    }
}
