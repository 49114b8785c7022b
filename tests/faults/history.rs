//! What the clients did, and what must hold of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::cluster::{JAVA_TRANSFORMED, Partition, TRANSFORMED};

/// What becomes of the records of a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Each is sent until it is acknowledged, and is there once and in order: the producer is idempotent.
    Once,
    /// Each is sent until it is acknowledged, by acks=all, before the next: it may be there twice, but never behind a later one.
    InOrder,
    /// What is acknowledged is there, perhaps twice: acks=all.
    Kept,
    /// acks=1.
    MayBeLost,
}

/// The clients of a run, by the names that they have in their history.
#[derive(Debug)]
pub struct Cast {
    pub producers: &'static [(&'static str, Promise)],
    pub groups: &'static [&'static str],
    /// It reads all partitions, by assignment.
    pub reader: &'static str,
    pub transforming: &'static [Transforming],
    /// Idempotent producers send again under a new epoch what they do not know to be there.
    pub takes_new_epochs: bool,
    pub has_changelog: bool,
}

/// Instances that make something of all records, in transactions.
#[derive(Debug)]
pub struct Transforming {
    /// Of which they are the members.
    pub group: &'static str,
    /// Each has one.
    pub transactional_ids: &'static [&'static str],
    /// The topic that they write to, and nobody else.
    pub output: &'static str,
    /// While it is finalized.
    pub follows_version_2: bool,
}

impl Cast {
    pub fn transactional_ids(&self) -> impl Iterator<Item = &'static str> {
        self.transforming.iter().flat_map(|those| those.transactional_ids.iter().copied())
    }

    pub fn all_groups(&self) -> impl Iterator<Item = &'static str> {
        self.groups.iter().copied().chain(self.transforming.iter().map(|those| those.group))
    }

    fn is_output(&self, topic: &str) -> bool {
        self.transforming.iter().any(|those| those.output == topic)
    }

    fn promise(&self, producer: &str) -> Option<Promise> {
        self.producers.iter().find(|(name, _)| *name == producer).map(|(_, promise)| *promise)
    }
}

/// transform.py.
const LIBRDKAFKAS: Transforming = Transforming {
    group: "transformers",
    transactional_ids: &["transformer-0", "transformer-1"],
    output: TRANSFORMED,
    follows_version_2: false,
};

/// Transform.java.
const JAVAS: Transforming = Transforming {
    group: "java",
    transactional_ids: &["java-0", "java-1"],
    output: JAVA_TRANSFORMED,
    follows_version_2: true,
};

/// Of clients.py.
pub const LIBRDKAFKA: Cast = Cast {
    producers: &[("idempotent", Promise::Once), ("all", Promise::Kept), ("one", Promise::MayBeLost)],
    groups: &["eager", "cooperative"],
    reader: "reader",
    transforming: &[LIBRDKAFKAS, JAVAS],
    takes_new_epochs: true,
    has_changelog: false,
};

/// Of Clients.java.
pub const JAVA: Cast = Cast {
    producers: &[("five", Promise::Once), ("old", Promise::InOrder)],
    groups: &["trio"],
    reader: "old-reader",
    transforming: &[],
    takes_new_epochs: false,
    has_changelog: true,
};

/// What says of a record who sent it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sent {
    pub producer: Arc<str>,
    /// Counts from 0, for each producer and partition.
    pub sequence: i64,
}

impl Sent {
    pub fn parse(value: &str) -> Option<Sent> {
        let mut words = value.split(' ');
        let (producer, sequence) = (words.next()?, words.next()?.parse().ok()?);
        Some(Sent { producer: producer.into(), sequence })
    }
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.producer, self.sequence)
    }
}

/// Of clients.py and Clients.java, which say when each is written down.
#[derive(Clone, Debug)]
pub enum Did {
    Sent {
        sequence: i64,
    },
    Acknowledged {
        sequence: i64,
        offset: i64,
    },
    Failed {
        sequence: i64,
        error: String,
    },
    /// The group's generation, where the client says it.
    Assigned {
        group: Arc<str>,
        generation: Option<i64>,
    },
    Consumed {
        offset: i64,
        sent: Sent,
    },
    Committing {
        group: Arc<str>,
        offset: i64,
    },
    Committed {
        group: Arc<str>,
        offset: i64,
    },
    NotCommitted,
    Error(String),
    /// A topic was created, or deleted, or the changelog was read as a whole.
    Done,
}

#[derive(Clone, Debug)]
pub struct Event {
    /// In seconds, by the clients' clock.
    pub at: f64,
    pub client: Arc<str>,
    pub partition: Partition,
    pub did: Did,
}

pub struct History {
    file: BufReader<File>,
    /// The beginning of a line that is not yet whole.
    line: String,
    names: Names,
    pub events: Vec<Event>,
    /// How many records of each producer were acknowledged, and how many of what was made of them were read.
    progress: BTreeMap<(Arc<str>, Partition), u64>,
}

impl History {
    pub fn open(path: &Path) -> std::io::Result<History> {
        let file = BufReader::new(File::open(path)?);
        Ok(History {
            file,
            line: String::new(),
            names: Names::default(),
            events: Vec::new(),
            progress: BTreeMap::new(),
        })
    }

    /// Reads what the clients have done since; gives how many records of each producer were acknowledged until now, and how
    /// many of what was made of them were read.
    pub fn follow(&mut self) -> &BTreeMap<(Arc<str>, Partition), u64> {
        while self.file.read_line(&mut self.line).expect("the history can be read") > 0 {
            if !self.line.ends_with('\n') {
                break;
            }
            let event =
                event(&self.line, &mut self.names).unwrap_or_else(|| panic!("no line of a history: {}", self.line));
            self.line.clear();
            let is_progress = match event.did {
                Did::Acknowledged { .. } => true,
                Did::Consumed { .. } => LIBRDKAFKA.is_output(&event.partition.0),
                _ => false,
            };
            if is_progress {
                *self.progress.entry((event.client.clone(), event.partition.clone())).or_default() += 1;
            }
            self.events.push(event);
        }
        &self.progress
    }
}

/// Each name once: a history has millions of events.
#[derive(Default)]
struct Names(HashSet<Arc<str>>);

impl Names {
    fn of(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        self.0.insert(name.clone());
        name
    }
}

fn event(line: &str, names: &mut Names) -> Option<Event> {
    let line: Value = serde_json::from_str(line).ok()?;
    let text = |name: &str| line[name].as_str();
    let (sequence, offset) = (line["sequence"].as_i64(), line["offset"].as_i64());
    let mut name = |of: &str| text(of).map(|name| names.of(name));
    let (client, topic, group) = (name("client")?, name("topic")?, name("group"));
    let did = match text("did")? {
        "sent" => Did::Sent { sequence: sequence? },
        "acknowledged" => Did::Acknowledged { sequence: sequence?, offset: offset? },
        "failed" => Did::Failed { sequence: sequence?, error: text("error")?.to_owned() },
        "assigned" => Did::Assigned { group: group?, generation: line["generation"].as_i64() },
        "consumed" => {
            let Sent { producer, sequence } = Sent::parse(text("value")?)?;
            Did::Consumed { offset: offset?, sent: Sent { producer: names.of(&producer), sequence } }
        }
        "committing" => Did::Committing { group: group?, offset: offset? },
        "committed" => Did::Committed { group: group?, offset: offset? },
        "not committed" => Did::NotCommitted,
        "error" => Did::Error(text("error")?.to_owned()),
        "created" | "deleted" | "restored" => Did::Done,
        _ => return None,
    };
    let partition = i32::try_from(line["partition"].as_i64()?).ok()?;
    Some(Event { at: line["at"].as_f64()?, client, partition: (topic, partition), did })
}

/// What a cluster holds when all has settled.
pub struct Held {
    /// By offset.
    pub records: BTreeMap<Partition, Vec<Sent>>,
    /// Of each of them.
    pub producer_epochs: BTreeMap<Partition, Vec<i16>>,
    /// By group.
    pub committed: BTreeMap<(Arc<str>, Partition), i64>,
}

/// Says what the clients did or were told that must not be. What they did with topics that are not held is no matter here.
pub fn violations(cast: &Cast, events: &[Event], held: &Held) -> Vec<String> {
    let mut found = Vec::new();
    let topics: HashSet<&Arc<str>> = held.records.keys().map(|(topic, _)| topic).collect();
    let events: Vec<&Event> = events.iter().filter(|event| topics.contains(&event.partition.0)).collect();
    produced(cast, &events, held, &mut found);
    consumed(cast, &events, held, &mut found);
    found
}

/// Acknowledged with acks=all means kept. An idempotent producer's records are there once and in the order in which they were
/// sent, for each epoch of it: librdkafka takes a new one, and sends again what it does not know to be there, when a request
/// failed and the next one was then out of order.
fn produced(cast: &Cast, events: &[&Event], held: &Held, found: &mut Vec<String>) {
    let mut sent: HashSet<(&Partition, Sent)> = HashSet::new();
    // Where the last of each is.
    let mut kept: HashMap<(&Partition, &Sent), usize> = HashMap::new();
    for (partition, records) in &held.records {
        let mut last: HashMap<&str, (i16, i64)> = HashMap::new();
        for (at, (record, epoch)) in records.iter().zip(&held.producer_epochs[partition]).enumerate() {
            let is_first = kept.insert((partition, record), at).is_none();
            let now = (*epoch, record.sequence);
            let last = last.entry(&record.producer).or_insert((-1, -1));
            match cast.promise(&record.producer) {
                Some(Promise::Once) if now <= *last => {
                    found.push(format!("{partition:?}: {record} in epoch {epoch} comes after {last:?}"));
                }
                Some(Promise::InOrder) if is_first && now <= *last => {
                    found.push(format!("{partition:?}: {record} comes after {last:?}"));
                }
                _ => {}
            }
            *last = now.max(*last);
        }
    }
    for event in events {
        let partition = &event.partition;
        let record = |sequence| Sent { producer: event.client.clone(), sequence };
        let promise = cast.promise(&event.client);
        match event.did {
            Did::Sent { sequence } => {
                sent.insert((partition, record(sequence)));
            }
            Did::Acknowledged { sequence, offset } if promise != Some(Promise::MayBeLost) => {
                let record = record(sequence);
                let at = usize::try_from(offset).ok();
                let Some(last) = kept.get(&(partition, &record)).copied() else {
                    found.push(format!("{partition:?}: {record}, acknowledged at {offset}, is lost"));
                    continue;
                };
                let Some(at) = at else { continue };
                if held.records[partition].get(at) != Some(&record) {
                    found.push(format!("{partition:?}: {record}, acknowledged at {offset}, is not there"));
                } else if promise == Some(Promise::Once) && at != last {
                    found.push(format!("{partition:?}: {record}, acknowledged at {offset}, came again at {last}"));
                }
            }
            // Never sent, since a broker that had just started knew no topic.
            Did::Failed { ref error, .. } if error.starts_with("Local: Unknown ") => {}
            Did::Failed { sequence, ref error } if matches!(promise, Some(Promise::Once | Promise::InOrder)) => {
                found.push(format!("{partition:?}: {} failed: {error}", record(sequence)));
            }
            _ => {}
        }
    }
    for (partition, record) in kept.keys() {
        if !sent.contains(&(*partition, (*record).clone())) {
            found.push(format!("{partition:?}: nobody sent {record}"));
        }
    }
}

/// What of an idempotent producer is there in two epochs of it: a request that ended without an answer, sent again after
/// another partition had made librdkafka take a new epoch.
pub fn doubled(cast: &Cast, held: &Held) -> Vec<String> {
    let mut seen = HashMap::new();
    let mut doubled = Vec::new();
    for (partition, records) in &held.records {
        let is_once = |record: &Sent| cast.promise(&record.producer) == Some(Promise::Once);
        for (at, record) in records.iter().enumerate().filter(|(_, record)| is_once(record)) {
            if let Some(before) = seen.insert((partition, record), at) {
                let epochs = [before, at].map(|at| held.producer_epochs[partition][at]);
                doubled.push(format!("{partition:?}: {record} at {before} and {at} in epochs {epochs:?}"));
            }
        }
    }
    doubled
}

/// What there is to know of a client, or a group, and a partition.
type Of<'a, T> = HashMap<(Arc<str>, &'a Partition), T>;

/// Where a group is with a partition.
#[derive(Default)]
struct Position {
    /// The furthest that was acknowledged.
    committed: i64,
    /// What was asked for, and may be committed.
    asked: HashSet<i64>,
}

/// Whoever reads sees what is there, in order and without gaps; who takes a partition over begins where the group has
/// committed; everything was read.
fn consumed(cast: &Cast, events: &[&Event], held: &Held, found: &mut Vec<String>) {
    let mut positions: Of<Position> = Of::new();
    // Of each client: the next offset, or of which group it is and what that had committed when it began.
    let mut next: Of<i64> = HashMap::new();
    let mut began: Of<(Arc<str>, i64)> = HashMap::new();
    let mut read: Of<Vec<bool>> = HashMap::new();
    for event in events {
        let partition = &event.partition;
        let of_client = (event.client.clone(), partition);
        match &event.did {
            Did::Assigned { group, .. } => {
                let committed = positions.entry((group.clone(), partition)).or_default().committed;
                next.remove(&of_client);
                began.insert(of_client, (group.clone(), committed));
            }
            Did::Consumed { offset, sent } => {
                let records = &held.records[partition];
                let at = usize::try_from(*offset).unwrap_or(usize::MAX);
                if records.get(at) != Some(sent) {
                    let there = records.get(at).map(Sent::to_string);
                    found.push(format!("{partition:?}: {} read {sent} at {offset}, where {there:?} is", event.client));
                }
                let began = began.get(&of_client);
                let reader = began.map_or_else(|| event.client.clone(), |(group, _)| group.clone());
                match (next.insert(of_client, offset + 1), began) {
                    (Some(next), _) if next == *offset => {}
                    (None, None) if *offset == 0 => {}
                    (None, Some((group, committed))) => {
                        let position = positions.entry((group.clone(), partition)).or_default();
                        if offset != committed && *offset != position.committed && !position.asked.contains(offset) {
                            found.push(format!(
                                "{partition:?}: {} began at {offset}, {group} had committed {committed}",
                                event.client
                            ));
                        }
                    }
                    (next, _) => {
                        found.push(format!("{partition:?}: {} read {offset} and expected {next:?}", event.client));
                    }
                }
                if let Some(read) =
                    read.entry((reader, partition)).or_insert_with(|| vec![false; records.len()]).get_mut(at)
                {
                    *read = true;
                }
            }
            Did::Committing { group, offset } => {
                positions.entry((group.clone(), partition)).or_default().asked.insert(*offset);
            }
            Did::Committed { group, offset } => {
                let position = positions.entry((group.clone(), partition)).or_default();
                position.committed = position.committed.max(*offset);
                position.asked.remove(offset);
            }
            Did::Error(error) if ["Offset out of range", "Log truncation"].iter().any(|bad| error.contains(bad)) => {
                found.push(format!("{partition:?}: {} was told: {error}", event.client));
            }
            _ => {}
        }
    }
    for (partition, records) in &held.records {
        for reader in cast.groups.iter().copied().chain([cast.reader]) {
            let read =
                read.get(&(reader.into(), partition)).map_or(0, |read| read.iter().filter(|read| **read).count());
            if read != records.len() {
                found.push(format!("{partition:?}: {reader} read {read} of {} records", records.len()));
            }
        }
    }
    for ((group, partition), position) in &positions {
        let committed = held.committed[&(group.clone(), (*partition).clone())];
        if committed < position.committed && !position.asked.contains(&committed) {
            let Position { committed: acknowledged, .. } = position;
            found.push(format!("{partition:?}: {group} is at {committed}, {acknowledged} was acknowledged"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing more than what the run with librdkafka has, but for a producer of the kind that only Java has.
    const CAST: Cast = Cast {
        producers: &[
            (IDEMPOTENT, Promise::Once),
            (ALL, Promise::Kept),
            (ONE, Promise::MayBeLost),
            (IN_ORDER, Promise::InOrder),
        ],
        ..LIBRDKAFKA
    };
    const IDEMPOTENT: &str = "idempotent";
    const ALL: &str = "all";
    const ONE: &str = "one";
    const IN_ORDER: &str = "in-order";
    const READER: &str = LIBRDKAFKA.reader;

    fn violations(events: &[Event], held: &Held) -> Vec<String> {
        super::violations(&CAST, events, held)
    }

    type Change = fn(&mut Vec<Event>, &mut Held);

    fn partition() -> Partition {
        ("orders".into(), 0)
    }

    fn by(client: &str, did: Did) -> Event {
        Event { at: 0.0, client: client.into(), partition: partition(), did }
    }

    fn sent(producer: &str, sequence: i64) -> Sent {
        Sent { producer: producer.into(), sequence }
    }

    fn read(client: &str, records: &[Sent], from: usize) -> Vec<Event> {
        let records = records.iter().enumerate().skip(from);
        records.map(|(at, sent)| by(client, Did::Consumed { offset: at as i64, sent: sent.clone() })).collect()
    }

    /// Two records of each producer, read by all; the members of a group take turns.
    fn sound() -> (Vec<Event>, Held) {
        let records: Vec<Sent> =
            (0..2).flat_map(|number| [IDEMPOTENT, ALL, ONE].map(|producer| sent(producer, number))).collect();
        let mut events = Vec::new();
        for (offset, record) in (0..).zip(&records) {
            let sequence = record.sequence;
            events.push(by(&record.producer, Did::Sent { sequence }));
            events.push(by(&record.producer, Did::Acknowledged { sequence, offset }));
        }
        events.extend(read(READER, &records, 0));
        for group in LIBRDKAFKA.groups.iter().copied().map(Arc::<str>::from) {
            let (one, other) = (format!("{group}-0"), format!("{group}-1"));
            events.push(by(&one, Did::Assigned { group: group.clone(), generation: None }));
            events.extend(read(&one, &records[..4], 0));
            events.push(by(&one, Did::Committing { group: group.clone(), offset: 4 }));
            events.push(by(&one, Did::Committed { group: group.clone(), offset: 4 }));
            events.push(by(&other, Did::Assigned { group: group.clone(), generation: None }));
            events.extend(read(&other, &records, 4));
            events.push(by(&other, Did::Committing { group: group.clone(), offset: 6 }));
            events.push(by(&other, Did::Committed { group, offset: 6 }));
        }
        let committed = LIBRDKAFKA.groups.iter().map(|group| (((*group).into(), partition()), 6)).collect();
        let producer_epochs = [(partition(), vec![0; records.len()])].into();
        (events, Held { records: [(partition(), records)].into(), producer_epochs, committed })
    }

    fn records(held: &mut Held) -> &mut Vec<Sent> {
        held.records.get_mut(&partition()).expect("it is there")
    }

    #[test]
    fn a_sound_history_violates_nothing() {
        let (events, held) = sound();
        assert_eq!(violations(&events, &held), Vec::<String>::new());
    }

    #[test]
    fn acks_1_may_lose_and_producers_that_are_not_idempotent_may_double() {
        let (mut events, mut held) = sound();
        events.retain(|event| !matches!(event.did, Did::Consumed { offset: 5, .. }));
        records(&mut held)[5] = sent(ALL, 0);
        events.extend(read("reader", records(&mut held), 5));
        for (group, member) in LIBRDKAFKA.groups.iter().map(|group| (group, format!("{group}-1"))) {
            events.push(by(&member, Did::Assigned { group: (*group).into(), generation: None }));
            // It begins at what may have been committed.
            events.push(by(&member, Did::Committing { group: (*group).into(), offset: 5 }));
            events.extend(read(&member, records(&mut held), 5));
        }
        assert_eq!(violations(&events, &held), Vec::<String>::new());
    }

    #[test]
    fn who_sends_one_after_the_other_may_double_but_not_go_back() {
        let found = |sequences: &[i64]| {
            let (events, mut held) = sound();
            *records(&mut held) = sequences.iter().map(|sequence| sent(IN_ORDER, *sequence)).collect();
            held.producer_epochs.insert(partition(), vec![0; sequences.len()]);
            let found = violations(&events, &held);
            found.into_iter().filter(|found| found.contains("comes after")).collect::<Vec<_>>()
        };
        assert_eq!(found(&[0, 1, 0, 1, 2]), Vec::<String>::new());
        assert_eq!(found(&[0, 2, 1]), [format!("{:?}: in-order 1 comes after (0, 2)", partition())]);
    }

    #[test]
    fn what_must_not_be_is_found() {
        let all: [(&str, Change); 13] = [
            ("all 1, acknowledged at 4, is lost", |_, held| records(held)[4] = sent(ONE, 1)),
            ("idempotent 1, acknowledged at 3, is not there", |_, held| records(held).swap(3, 4)),
            ("idempotent 1 in epoch 0 comes after (0, 1)", |_, held| records(held)[5] = sent(IDEMPOTENT, 1)),
            ("idempotent 0 in epoch 0 comes after (0, 1)", |_, held| records(held).swap(0, 3)),
            ("idempotent 0, acknowledged at 0, came again at 5", |_, held| {
                records(held)[5] = sent(IDEMPOTENT, 0);
                held.producer_epochs.get_mut(&partition()).expect("it is there")[5] = 1;
            }),
            ("nobody sent one 7", |_, held| records(held)[5] = sent(ONE, 7)),
            ("idempotent 2 failed: fatal", |events, _| {
                events.push(by(IDEMPOTENT, Did::Failed { sequence: 2, error: "fatal".into() }));
            }),
            ("reader read all 9 at 1, where Some(\"all 0\") is", |events, _| {
                let read = |event: &&mut Event| {
                    *event.client == *READER && matches!(event.did, Did::Consumed { offset: 1, .. })
                };
                events.iter_mut().find(read).expect("it read it").did = Did::Consumed { offset: 1, sent: sent(ALL, 9) };
            }),
            ("reader read 5 of 6 records", |events, _| {
                events
                    .retain(|event| *event.client != *READER || !matches!(event.did, Did::Consumed { offset: 5, .. }));
            }),
            ("reader read 3 and expected Some(2)", |events, _| {
                events
                    .retain(|event| *event.client != *READER || !matches!(event.did, Did::Consumed { offset: 2, .. }));
            }),
            ("eager-1 began at 5, eager had committed 4", |events, _| {
                let is =
                    |event: &Event| *event.client == *"eager-1" && matches!(event.did, Did::Consumed { offset: 4, .. });
                events.retain(|event| !is(event));
            }),
            ("eager-1 began at 2, eager had committed 4", |events, held| {
                let assigned = |event: &Event| *event.client == *"eager-1" && matches!(event.did, Did::Assigned { .. });
                let at = events.iter().position(assigned).expect("it was assigned") + 1;
                events.splice(at..at, read("eager-1", &records(held)[..4], 2));
            }),
            ("eager is at 5, 6 was acknowledged", |_, held| {
                held.committed.insert(("eager".into(), partition()), 5);
            }),
        ];
        for (expected, change) in all {
            let (mut events, mut held) = sound();
            change(&mut events, &mut held);
            let found = violations(&events, &held);
            assert!(found.iter().any(|found| found.ends_with(expected)), "{expected}: {found:?}");
        }
    }
}
