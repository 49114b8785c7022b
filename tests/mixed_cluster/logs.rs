//! What brokers of either kind complain of, when, and why each of these lines is no sign of anything wrong: an all-JVM cluster
//! to which the same happens logs it too, or it is ours, and says here what it is.

// Other tests read their brokers' logs with this, and have less happen.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};

use crate::support::{Broker, Kind};

/// What happens to a cluster. Brokers may complain of it until the clients have got on after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    Starts,
    Stops,
    Dies,
    SessionExpires,
    /// From broker to broker, while the others sleep: on a busy machine for so long that their sessions expire.
    OfficeMoves,
    /// They are created, altered, grown, deleted.
    TopicsChange,
    ReplicasMove,
    /// Those that are preferred are elected.
    LeadersMove,
    /// No replica in sync is alive, on purpose, and one that is not leads.
    LogsPart,
    /// A producer leaves one on purpose.
    SequenceGap,
}
use Event::{
    Dies, LeadersMove, LogsPart, OfficeMoves, ReplicasMove, SequenceGap, SessionExpires, Starts, Stops, TopicsChange,
};

/// A part of the brokers' logs: which events were not over, and of which kind each broker was.
pub struct Span {
    /// In bytes, in each log.
    pub ends: Vec<u64>,
    pub happened: BTreeSet<Event>,
    pub kinds: Vec<Kind>,
}

impl Span {
    /// Up to where the logs end now.
    pub fn until_now(brokers: &[Broker], happened: BTreeSet<Event>, kinds: Vec<Kind>) -> Span {
        let length = |broker: &Broker| std::fs::metadata(&broker.log).expect("every broker has a log").len();
        Span { ends: brokers.iter().map(length).collect(), happened, kinds }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Jvm,
    Ours,
    Both,
    /// As the two above, and why three JVM brokers of the last release need not say it, to whom all of this happens.
    JvmMay(&'static str),
    BothMay(&'static str),
}
use Whose::{Both, BothMay, Jvm, JvmMay, Ours};

/// Who says it, what is in the line, after any of which events, and why it is there.
struct Known(Whose, &'static [&'static str], &'static [Event], &'static str);

const CONTROLLERS_REQUESTS: &[Event] = &[Starts, Stops, Dies, SessionExpires, OfficeMoves];

const KNOWN: &[Known] = &[
    Known(Jvm, &["Error processing append operation on partition sequenced-0"], &[SequenceGap], "it is refused"),
    Known(
        JvmMay("no producer has several requests on their way there"),
        &["Error processing append operation on partition orders-"],
        &[Stops, Dies],
        "one is refused while leaders change, or too few are in sync, and those behind it are until it is sent again",
    ),
    Known(
        JvmMay("no producer has several requests on their way there"),
        &["Error processing append operation on partition moved-"],
        &[Stops, Dies],
        "one is refused while leaders change, and those behind it are until it is sent again",
    ),
    Known(
        JvmMay("no topic goes there while a broker is away"),
        &["initiated state change of replica ", " from OnlineReplica to ReplicaDeletionIneligible failed"],
        &[Stops, Dies],
        "a topic is deleted while one of its brokers goes down",
    ),
    Known(
        Jvm,
        &["but cannot become follower since the new leader -1 is unavailable"],
        &[Dies, SessionExpires, LogsPart],
        "the controller is gone, and the next has not elected yet, or no replica in sync is alive",
    ),
    Known(
        JvmMay("no topic is made there while a broker dies"),
        &["but cannot become follower since the new leader ", " is unavailable"],
        &[Dies],
        "the controller has not missed the leader yet that it elects",
    ),
    Known(
        JvmMay("only ours leaves the first entries of an index for later"),
        &["Could not find offset index file corresponding to log file"],
        &[Dies],
        "ours was killed before it had written any",
    ),
    Known(
        Jvm,
        &["failed to change state for partition", " to OnlinePartition"],
        &[LogsPart],
        "no replica in sync is alive",
    ),
    Known(
        Jvm,
        &["Closing socket connection. Attempting reconnect except it is a SessionExpiredException"],
        &[SessionExpires, OfficeMoves],
        "an expiry, or it slept",
    ),
    Known(
        JvmMay("only on a busy machine it sleeps for so long"),
        &["Client session timed out, have not heard from server"],
        &[OfficeMoves],
        "it slept",
    ),
    Known(Jvm, &["Unable to reconnect to ZooKeeper service, session ", " has expired"], &[SessionExpires], "an expiry"),
    Known(Jvm, &[" could not be established. ", " may not be available."], &[Starts, Stops, Dies], "a broker is down"),
    Known(
        Jvm,
        &["[RequestSendThread controllerId=", " connection to broker ", " was unsuccessful"],
        CONTROLLERS_REQUESTS,
        "a broker is down",
    ),
    Known(
        Jvm,
        &["[RequestSendThread controllerId=", " fails to send request (type"],
        CONTROLLERS_REQUESTS,
        "a broker goes down",
    ),
    Known(
        JvmMay("only a moment lies between its connection and its request"),
        &["[RequestSendThread controllerId=", " fails to send a request to broker"],
        CONTROLLERS_REQUESTS,
        "a broker goes down",
    ),
    Known(Jvm, &["[ReplicaFetcher ", "Error in response for fetch request "], &[Stops, Dies], "a leader goes down"),
    Known(
        Both,
        &["[ReplicaFetcher ", " marked as failed"],
        &[Starts, Stops, Dies, SessionExpires, LeadersMove, TopicsChange, ReplicasMove],
        "the leader heard of the next epoch first",
    ),
    Known(
        Both,
        &["[ReplicaFetcher ", "Received UNKNOWN_TOPIC_ID from the leader"],
        &[Starts, Stops, Dies, SessionExpires, TopicsChange, ReplicasMove],
        "the follower heard of the topic first",
    ),
    Known(
        BothMay("in protocol 3.1 and later followers name topics by their ids"),
        &["[ReplicaFetcher ", "Received UNKNOWN_TOPIC_OR_PARTITION from the leader"],
        &[Starts, Stops, Dies, SessionExpires, TopicsChange, ReplicasMove],
        "the leader heard of it later or no more",
    ),
    Known(
        Jvm,
        &["Non-monotonic update of high watermark"],
        &[Stops, Dies, SessionExpires, LeadersMove, ReplicasMove],
        "a new leader knows less of what is committed than its followers, for a moment",
    ),
    Known(
        JvmMay("only a request that is on its way when the session ends comes too late"),
        &["Received error STALE_BROKER_EPOCH in "],
        &[Starts, SessionExpires],
        "the broker has registered again since the request was made",
    ),
    Known(
        JvmMay("only a request that is on its way when the session ends comes too late"),
        &["Error when handling request: ", "api=UPDATE_METADATA"],
        &[SessionExpires],
        "the controller that was is heard after the one that is",
    ),
    Known(
        JvmMay("only a request that is on its way when the session ends comes too late"),
        &["Received update metadata request with correlation id ", " from an old controller "],
        &[SessionExpires],
        "the controller that was is heard after the one that is",
    ),
    Known(
        Ours,
        &["[RequestSendThread controllerId=", " answers UpdateMetadata with STALE_CONTROLLER_EPOCH"],
        &[SessionExpires],
        "it was the controller, and is heard after the one that is",
    ),
    Known(
        Ours,
        &[" cannot be asked as the controller, trying again: "],
        &[Stops, Dies],
        "the controller goes down; a JVM broker says of it that it may not be available",
    ),
    Known(
        JvmMay("only releases before 3.7 complain of it"),
        &["No meta.properties file under dir"],
        &[Starts],
        "it is the first start",
    ),
    Known(
        Ours,
        &["These settings are known but not acted on yet:"],
        &[Starts],
        "the test sets some for the JVM brokers",
    ),
    Known(
        Ours,
        &["[ReplicaFetcher ", "Error in response for a request to broker"],
        &[Stops, Dies],
        "a leader goes down",
    ),
    Known(
        Ours,
        &["[RequestSendThread controllerId=", " fails to send request to broker ", ", trying again: "],
        CONTROLLERS_REQUESTS,
        "a broker is down",
    ),
    Known(
        Ours,
        &[": cannot follow broker -1, which is not alive"],
        &[Dies, SessionExpires, LogsPart],
        "the controller is gone, and the next has not elected yet, or no replica in sync is alive",
    ),
    Known(
        Ours,
        &["unclean election for partition parted-", " leads and records may be lost"],
        &[LogsPart],
        "the logs part on purpose",
    ),
    Known(
        Ours,
        &["[ZooKeeperClient Kafka server] Disconnected."],
        &[SessionExpires, OfficeMoves],
        "an expiry, or it slept while the office moved",
    ),
    Known(Ours, &["[ZooKeeperClient Kafka server] Session ", " expired."], &[SessionExpires], "an expiry"),
    Known(Ours, &["/brokers/ids/", " still exists; waiting up to "], &[Dies], "the session of who was killed lasts"),
    Known(Ours, &["fail to connect to cluster ", " due to session expired"], &[SessionExpires], "an expiry"),
    Known(
        Ours,
        &["fails to establish session to ", " due to "],
        &[Starts, SessionExpires, OfficeMoves],
        "an expiry, it slept while the office moved, or ZooKeeper has only started",
    ),
];

impl Known {
    fn explains(&self, line: &str, kind: Kind, happened: &BTreeSet<Event>) -> bool {
        let Known(whose, parts, events, _) = self;
        let is_theirs = match whose {
            Both | BothMay(_) => true,
            Jvm | JvmMay(_) => kind != Kind::Odradek,
            Ours => kind == Kind::Odradek,
        };
        is_theirs && parts.iter().all(|part| line.contains(part)) && events.iter().any(|event| happened.contains(event))
    }
}

/// What of `KNOWN` was said, by its number.
pub type Seen = BTreeSet<usize>;

/// Asserts that all lines with WARN, ERROR or FATAL are explained by what happened before.
pub fn explain_all(brokers: &[Broker], spans: &[Span]) -> Seen {
    let forms = [
        (r"\{.*\}", "{}"),
        (r"(removed|replaced|toForget)=[^)]*", "$1="),
        (r"[A-Za-z0-9_.-]+-[0-9]+", "T"),
        (r"[0-9a-f]*[0-9][0-9a-f]*", "N"),
    ];
    let forms = forms.map(|(pattern, with)| (regex::Regex::new(pattern).expect("it is a pattern"), with));
    // By what is common to all lines of one form.
    let mut unexplained: BTreeMap<String, (i32, usize, String)> = BTreeMap::new();
    let mut seen = Seen::new();
    for (id, broker) in brokers.iter().enumerate() {
        let bytes = std::fs::read(&broker.log).expect("every broker has a log");
        let mut spans = spans.iter().peekable();
        let mut end = 0;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            // Where a line begins says after what it comes.
            let begin = end;
            end += line.len() as u64;
            while spans.next_if(|span| span.ends[id] <= begin).is_some() {}
            let line = String::from_utf8_lossy(line);
            let Some((_, said)) = line.trim_end().split_once("] ").filter(|_| line.starts_with("[20")) else {
                continue;
            };
            let is_complaint = ["WARN ", "ERROR ", "FATAL "].iter().any(|level| said.starts_with(level));
            let Some(span) = spans.peek().filter(|_| is_complaint) else { continue };
            let kind = span.kinds[id];
            if let Some(number) = KNOWN.iter().position(|known| known.explains(said, kind, &span.happened)) {
                seen.insert(number);
                continue;
            }
            let form =
                forms.iter().fold(said.to_owned(), |said, (form, with)| form.replace_all(&said, *with).into_owned());
            let context = format!("{kind:?}, after {:?}: {said}", span.happened);
            unexplained.entry(form).or_insert_with(|| (broker.id, 0, context)).1 += 1;
        }
    }
    let lines: Vec<String> = unexplained
        .into_values()
        .map(|(id, count, said)| format!("broker {id}, {count} times: {}", said.chars().take(500).collect::<String>()))
        .collect();
    assert!(lines.is_empty(), "lines that nobody has explained:\n{}", lines.join("\n"));
    KNOWN.iter().for_each(|known| assert!(!known.2.is_empty() && !known.3.is_empty(), "{:?} has no reason", known.1));
    seen
}

/// Asserts that JVM brokers alone have said all that is known of them, so that none of it is the doing of ours.
pub fn assert_all_were_said(seen: &Seen) {
    let is_missing = |(number, known): &(usize, &Known)| matches!(known.0, Jvm | Both) && !seen.contains(number);
    let missing: Vec<_> = (0..).zip(KNOWN).filter(is_missing).map(|(_, known)| known.1).collect();
    assert!(missing.is_empty(), "nobody has said {missing:?}");
}
