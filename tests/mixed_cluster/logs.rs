//! What brokers of either kind complain of, and why each of these lines is no sign of anything wrong: an all-JVM cluster to
//! which the same happens logs it too, or it is ours, and says here what it is.

use std::collections::BTreeMap;

use crate::world::World;

/// The parts of the line, and why it is there.
struct Known(&'static [&'static str], &'static str);

const OF_JVM_BROKERS: &[Known] = &[
    Known(&["Error processing append operation on partition sequenced-0"], "the producer leaves a gap on purpose"),
    Known(&["but cannot become follower since the new leader -1 is unavailable"], "no replica in sync is alive"),
    Known(&["failed to change state for partition", " to OnlinePartition"], "no replica in sync is alive"),
    Known(&["Closing socket connection. Attempting reconnect except it is a SessionExpiredException"], "an expiry"),
    Known(&["Unable to reconnect to ZooKeeper service, session ", " has expired"], "an expiry"),
    Known(&[" could not be established. ", " may not be available."], "a broker is down"),
    Known(&["[RequestSendThread controllerId=", " connection to broker ", " was unsuccessful"], "a broker is down"),
    Known(&["[RequestSendThread controllerId=", " fails to send request (type"], "a broker goes down"),
    Known(&["[RequestSendThread controllerId=", " fails to send a request to broker"], "a broker goes down"),
    Known(&["[ReplicaFetcher ", "Error in response for fetch request "], "a leader goes down"),
    Known(&["[ReplicaFetcher ", " marked as failed"], "the leader heard of the next epoch first"),
    Known(&["[ReplicaFetcher ", "Received UNKNOWN_TOPIC_ID from the leader"], "the follower heard of the topic first"),
    Known(
        &["[ReplicaFetcher ", "Received UNKNOWN_TOPIC_OR_PARTITION from the leader"],
        "the leader heard of it later or no more",
    ),
    Known(&["Non-monotonic update of high watermark"], "a killed leader begins with the one of its checkpoint"),
    Known(&["Received error STALE_BROKER_EPOCH in "], "the broker has registered again since the request was made"),
    Known(&["No meta.properties file under dir"], "it is the first start"),
];

const OF_OURS: &[Known] = &[
    Known(&["These settings are known but not acted on yet:"], "the test sets some for the JVM brokers"),
    Known(&["[ReplicaFetcher ", "Error in response for a request to broker"], "a leader goes down"),
    Known(
        &["[RequestSendThread controllerId=", " fails to send request to broker ", ", trying again: "],
        "a broker is down",
    ),
    Known(&[": cannot follow broker -1, which is not alive"], "no replica in sync is alive"),
    Known(&["unclean election for partition parted-", " leads and records may be lost"], "the logs part on purpose"),
    Known(&["[ZooKeeperClient Kafka server] Disconnected."], "an expiry, or it slept while the office moved"),
    Known(&["[ZooKeeperClient Kafka server] Session ", " expired."], "an expiry"),
    Known(&["fail to connect to cluster ", " due to session expired"], "an expiry"),
    Known(&["fails to establish session to ", " due to "], "an expiry, or it slept while the office moved"),
];

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
        let text = std::fs::read_to_string(world.log(id)).expect("every broker has a log");
        for line in text.lines() {
            let Some((_, said)) = line.split_once("] ").filter(|_| line.starts_with("[20")) else { continue };
            let is_known = |known: &Known| known.0.iter().all(|part| said.contains(part));
            let is_complaint = ["WARN ", "ERROR ", "FATAL "].iter().any(|level| said.starts_with(level));
            if !is_complaint || OF_JVM_BROKERS.iter().chain(OF_OURS).any(is_known) {
                continue;
            }
            let form =
                forms.iter().fold(said.to_owned(), |said, (form, with)| form.replace_all(&said, *with).into_owned());
            found.entry(form).or_insert_with(|| (id, 0, said.to_owned())).1 += 1;
        }
    }
    found
}

pub fn explain_all(world: &World) {
    let lines: Vec<String> = unexplained(world)
        .into_values()
        .map(|(id, count, said)| format!("broker {id}, {count} times: {}", said.chars().take(500).collect::<String>()))
        .collect();
    assert!(lines.is_empty(), "lines that nobody has explained:\n{}", lines.join("\n"));
    let why = |known: &Known| assert!(!known.1.is_empty(), "{:?} has no reason", known.0);
    OF_JVM_BROKERS.iter().chain(OF_OURS).for_each(why);
}
