//! What brokers of either kind complain of, when, and why each of these lines is no sign of anything wrong: an all-JVM cluster
//! to which the same happens logs it too, or it is ours, and says here what it is.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::Kind;
use crate::world::World;

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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Jvm,
    Ours,
    Both,
}
use Whose::{Both, Jvm, Ours};

/// Who says it, what is in the line, after any of which events, and why it is there.
struct Known(Whose, &'static [&'static str], &'static [Event], &'static str);

const CONTROLLERS_REQUESTS: &[Event] = &[Starts, Stops, Dies, SessionExpires, OfficeMoves];

const KNOWN: &[Known] = &[
    Known(Jvm, &["Error processing append operation on partition sequenced-0"], &[SequenceGap], "it is refused"),
    Known(
        Jvm,
        &["but cannot become follower since the new leader -1 is unavailable"],
        &[Dies, SessionExpires, LogsPart],
        "the controller is gone, and the next has not elected yet, or no replica in sync is alive",
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
    Known(Jvm, &["Client session timed out, have not heard from server"], &[OfficeMoves], "it slept"),
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
        Jvm,
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
        Both,
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
        Jvm,
        &["Received error STALE_BROKER_EPOCH in "],
        &[Starts, SessionExpires],
        "the broker has registered again since the request was made",
    ),
    Known(
        Jvm,
        &["Error when handling request: ", "api=UPDATE_METADATA"],
        &[SessionExpires],
        "the controller that was is heard after the one that is",
    ),
    Known(
        Jvm,
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
    Known(Jvm, &["No meta.properties file under dir"], &[Starts], "it is the first start"),
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
            Both => true,
            Jvm => kind != Kind::Odradek,
            Ours => kind == Kind::Odradek,
        };
        is_theirs && parts.iter().all(|part| line.contains(part)) && events.iter().any(|event| happened.contains(event))
    }
}

/// The lines with WARN, ERROR or FATAL that nobody has explained, by what is common to all of one form.
fn unexplained(world: &World) -> BTreeMap<String, (i32, usize, String)> {
    let forms = [
        (r"\{.*\}", "{}"),
        (r"(removed|replaced|toForget)=[^)]*", "$1="),
        (r"[A-Za-z0-9_.-]+-[0-9]+", "T"),
        (r"[0-9a-f]*[0-9][0-9a-f]*", "N"),
    ];
    let forms = forms.map(|(pattern, with)| (regex::Regex::new(pattern).expect("it is a pattern"), with));
    let mut found: BTreeMap<String, (i32, usize, String)> = BTreeMap::new();
    for id in world.ids() {
        let bytes = std::fs::read(world.log(id)).expect("every broker has a log");
        let mut spans = world.spans.iter().peekable();
        let mut end = 0;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            // Where a line begins says after what it comes.
            let begin = end;
            end += line.len() as u64;
            while spans.next_if(|span| span.ends[id as usize] <= begin).is_some() {}
            let line = String::from_utf8_lossy(line);
            let Some((_, said)) = line.trim_end().split_once("] ").filter(|_| line.starts_with("[20")) else {
                continue;
            };
            let is_complaint = ["WARN ", "ERROR ", "FATAL "].iter().any(|level| said.starts_with(level));
            let Some(span) = spans.peek().filter(|_| is_complaint) else { continue };
            let kind = span.kinds[id as usize];
            if KNOWN.iter().any(|known| known.explains(said, kind, &span.happened)) {
                continue;
            }
            let form =
                forms.iter().fold(said.to_owned(), |said, (form, with)| form.replace_all(&said, *with).into_owned());
            let context = format!("{kind:?}, after {:?}: {said}", span.happened);
            found.entry(form).or_insert_with(|| (id, 0, context)).1 += 1;
        }
    }
    found
}

pub fn explain_all(world: &mut World) {
    world.is_calm();
    let lines: Vec<String> = unexplained(world)
        .into_values()
        .map(|(id, count, said)| format!("broker {id}, {count} times: {}", said.chars().take(500).collect::<String>()))
        .collect();
    assert!(lines.is_empty(), "lines that nobody has explained:\n{}", lines.join("\n"));
    KNOWN.iter().for_each(|known| assert!(!known.2.is_empty() && !known.3.is_empty(), "{:?} has no reason", known.1));
}
