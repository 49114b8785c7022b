//! Creating, growing and deleting topics in ZooKeeper, where the controller, whichever broker it is, picks them up.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::info;
use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::session::ZooKeeper;
use odradek_zookeeper::znode::topic::{PartitionAssignment, Topic};

use crate::config::kafka_config::KafkaConfig;
use crate::config::properties::Properties;
use crate::config::topic_settings::validate;
use crate::controller::assignment::{Candidate, Start, assign};
use crate::controller::topic_validation::{
    TopicError, listed, name_in_metrics, refuse_collision, validate_added, validate_assignment, validate_name,
};
use crate::model::internal_topics::{GROUP_METADATA_TOPIC, TRANSACTION_STATE_TOPIC};
use crate::model::shown::shown;
use crate::model::{BrokerId, TopicId};

/// How the partitions of a new topic are wished for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// `None` is the broker's default.
    Spread {
        partitions: Option<i32>,
        replication_factor: Option<i16>,
    },
    Assigned(BTreeMap<i32, Vec<BrokerId>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Create,
    /// Say whether it would work, and change nothing.
    ValidateOnly,
}

/// A topic that was created, or would have been.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Created {
    /// Zero when the inter-broker protocol knows no ids, or nothing was created.
    pub id: TopicId,
    pub partitions: i32,
    pub replication_factor: i16,
}

/// Topics as the brokers' administrators see them.
#[derive(Debug)]
pub struct Topics {
    zk: ZooKeeper,
    /// Being created for a client that asked for metadata; a second one need not create them too.
    in_flight: Mutex<BTreeSet<String>>,
    /// Held while a topic grows: of two requests that want the same, the later one finds it done.
    growing: tokio::sync::Mutex<()>,
    /// Reading all names for each of thousands would cost far more than the names themselves.
    names: tokio::sync::Mutex<Option<Names>>,
}

/// How long the names of all topics are taken for true where no other collides: about as long as a creation takes.
const NAMES_VALID: Duration = Duration::from_millis(100);
/// And where one does, which may be gone by now.
const COLLISION_VALID: Duration = Duration::from_millis(10);

/// The names of all topics, by what their metrics are called.
#[derive(Debug)]
struct Names {
    read: Instant,
    by_metrics: HashMap<String, Vec<String>>,
}

impl Names {
    /// The topics whose metrics are called like those of this one.
    fn like(&self, name: &str) -> &[String] {
        self.by_metrics.get(&name_in_metrics(name)).map(Vec::as_slice).unwrap_or_default()
    }
}

fn unexpected(error: ZkError) -> TopicError {
    match error {
        ZkError::TooLarge { .. } => TopicError::InvalidRequest(error.to_string()),
        error => TopicError::Unexpected(error.to_string()),
    }
}

fn exists(name: &str) -> TopicError {
    TopicError::Exists(format!("Topic '{name}' already exists."))
}

impl Topics {
    pub fn new(zk: ZooKeeper) -> Topics {
        Topics { zk, in_flight: Mutex::default(), growing: Default::default(), names: Default::default() }
    }

    /// `brokers` are those that may get replicas, in ascending order of their ids.
    pub async fn create(
        &self,
        config: &KafkaConfig,
        brokers: &[Candidate],
        name: &str,
        wish: Wish,
        overrides: &Properties,
        mode: Mode,
    ) -> Result<Created, TopicError> {
        let defaults = config.controller_config();
        let assignment = match wish {
            Wish::Assigned(assignment) => assignment,
            Wish::Spread { partitions, replication_factor } => {
                let default_factor = i16::try_from(defaults.default_replication_factor).unwrap_or(i16::MAX);
                let factor = replication_factor.unwrap_or(default_factor);
                let partitions = partitions.unwrap_or(defaults.num_partitions);
                assign(brokers, partitions, factor, 0, Start::random(brokers.len()))?
            }
        };
        validate_name(name)?;
        if self.zk.is_marked_for_deletion(name).await.map_err(unexpected)? {
            return Err(TopicError::Exists(format!("Topic '{name}' is marked for deletion.")));
        }
        if self.zk.topic_exists(name).await.map_err(unexpected)? {
            return Err(exists(name));
        }
        if name.contains(['.', '_']) {
            self.refuse_collision(name).await?;
        }
        validate_assignment(&assignment)?;
        validate(&config.topic_defaults(), &Properties::new(), overrides)
            .map_err(|error| TopicError::InvalidConfig(error.to_string()))?;
        let mut created = Created {
            id: TopicId::ZERO,
            partitions: i32::try_from(assignment.len()).unwrap_or(i32::MAX),
            replication_factor: assignment
                .get(&0)
                .map_or(0, |replicas| i16::try_from(replicas.len()).unwrap_or(i16::MAX)),
        };
        if mode == Mode::ValidateOnly {
            return Ok(created);
        }
        info!(
            "Creating topic {name} with configuration {} and initial partition assignment {}",
            shown(&format!("{overrides:?}")),
            shown(&format!("{assignment:?}"))
        );
        if defaults.inter_broker_protocol_version.is_topic_ids_supported() {
            created.id = TopicId::random();
        }
        let topic = Topic {
            topic_id: (!created.id.is_zero()).then(|| created.id.to_string()),
            partitions: assignment.into_iter().map(|(partition, replicas)| (partition, assigned(&replicas))).collect(),
        };
        match self.zk.create_topic(name, &topic, overrides).await {
            Ok(()) => {
                self.created(name).await;
                Ok(created)
            }
            Err(ZkError::NodeExists { .. }) => match self.zk.topic(name).await.map_err(unexpected)? {
                // The reply to our own request was lost.
                Some(found) if !created.id.is_zero() && found.value == topic => Ok(created),
                _ => Err(exists(name)),
            },
            Err(error) => Err(unexpected(error)),
        }
    }

    async fn refuse_collision(&self, name: &str) -> Result<(), TopicError> {
        let mut names = self.names.lock().await;
        if let Some(known) = names.as_ref().filter(|known| known.read.elapsed() < NAMES_VALID) {
            let outcome = refuse_collision(name, known.like(name));
            if outcome.is_ok() || known.read.elapsed() < COLLISION_VALID {
                return outcome;
            }
        }
        let mut known = Names { read: Instant::now(), by_metrics: HashMap::new() };
        for name in self.zk.topics().await.map_err(unexpected)? {
            known.by_metrics.entry(name_in_metrics(&name)).or_default().push(name);
        }
        refuse_collision(name, names.insert(known).like(name))
    }

    async fn created(&self, name: &str) {
        if let Some(known) = self.names.lock().await.as_mut() {
            known.by_metrics.entry(name_in_metrics(name)).or_default().push(name.to_owned());
        }
    }

    /// Creates a topic with the settings that the broker has for it, unless someone is at it already. Which broker
    /// does this does not matter: any may write a topic.
    pub async fn auto_create(
        &self,
        config: &KafkaConfig,
        brokers: &[Candidate],
        name: &str,
    ) -> Result<(), AutoCreateError> {
        validate_name(name).map_err(AutoCreateError::Refused)?;
        if brokers.is_empty() {
            // No controller has introduced the brokers yet; the topic may well exist.
            return Err(AutoCreateError::InFlight);
        }
        let Some(_claim) = self.claim(name) else { return Err(AutoCreateError::InFlight) };
        let (wish, overrides) = automatic(config, name);
        match self.create(config, brokers, name, wish, &overrides, Mode::Create).await {
            // It will be there in a moment.
            Ok(_) | Err(TopicError::Exists(_)) => Ok(()),
            Err(error) => {
                info!("topic {name} was not created: {error}");
                Err(AutoCreateError::Refused(error))
            }
        }
    }

    fn claim(&self, name: &str) -> Option<Claim<'_>> {
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        in_flight.insert(name.to_owned()).then(|| Claim { topics: self, name: name.to_owned() })
    }

    /// Asks the controller to delete the topic.
    pub async fn delete(&self, name: &str) -> Result<(), TopicError> {
        // A name that no topic can have must not reach a path.
        let unknown = || TopicError::Unknown(format!("Topic `{name}` to delete does not exist"));
        validate_name(name).map_err(|_| unknown())?;
        if !self.zk.topic_exists(name).await.map_err(unexpected)? {
            return Err(unknown());
        }
        self.zk.mark_topic_for_deletion(name).await.map_err(unexpected)
    }

    /// Brings the topic to `count` partitions, and returns how many it has then. `assignments` are the replicas of the
    /// new ones.
    pub async fn add_partitions(
        &self,
        name: &str,
        count: i32,
        assignments: Option<Vec<Vec<BrokerId>>>,
        mode: Mode,
    ) -> Result<i32, TopicError> {
        let unknown = || TopicError::Unknown(format!("The topic '{name}' does not exist."));
        validate_name(name).map_err(|_| unknown())?;
        let _growing = self.growing.lock().await;
        let mut written = None;
        loop {
            if self.zk.is_marked_for_deletion(name).await.map_err(unexpected)? {
                return Err(TopicError::InvalidName("The topic is queued for deletion.".to_owned()));
            }
            let found = self.zk.topic(name).await.map_err(unexpected)?.ok_or_else(unknown)?;
            // The reply to our own request was lost.
            if written.as_ref() == Some(&found.value) {
                return Ok(count);
            }
            let live = self.zk.brokers().await.map_err(unexpected)?;
            let brokers: Vec<Candidate> = live
                .into_iter()
                .map(|live| Candidate { id: BrokerId(live.broker.id), rack: live.broker.rack })
                .collect();
            let grown = grown(name, found.value, count, assignments.as_deref(), &brokers)?;
            if mode == Mode::ValidateOnly {
                return Ok(count);
            }
            info!(
                "Creating partitions for '{name}', whose replica assignment is then {}",
                shown(&format!("{:?}", grown.partitions))
            );
            match self.zk.set_topic(name, &grown, found.version).await {
                Ok(_) => return Ok(count),
                // Someone else has changed the topic since it was read: what they left is what is to grow.
                Err(ZkError::BadVersion { .. }) => written = Some(grown),
                Err(ZkError::NoNode { .. }) => return Err(unknown()),
                Err(error) => return Err(unexpected(error)),
            }
        }
    }
}

/// The topic with `count` partitions.
fn grown(
    name: &str,
    mut topic: Topic,
    count: i32,
    assignments: Option<&[Vec<BrokerId>]>,
    brokers: &[Candidate],
) -> Result<Topic, TopicError> {
    let is_reassigned =
        |one: &PartitionAssignment| !one.adding_replicas.is_empty() || !one.removing_replicas.is_empty();
    if topic.partitions.values().any(is_reassigned) {
        return Err(TopicError::ReassignmentInProgress(format!(
            "A partition reassignment is in progress for the topic '{name}'."
        )));
    }
    let first = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
    if count < first {
        return Err(TopicError::InvalidPartitions(format!(
            "Topic currently has {first} partitions, which is higher than the requested {count}."
        )));
    }
    if count == first {
        return Err(TopicError::InvalidPartitions(format!("Topic already has {first} partitions.")));
    }
    let of_first = topic
        .partitions
        .get(&0)
        .map(|one| one.replicas.clone())
        .ok_or_else(|| TopicError::Unexpected(format!("topic '{name}' has no partition 0 in its assignment")))?;
    let live: BTreeSet<BrokerId> = brokers.iter().map(|broker| broker.id).collect();
    let added = match assignments {
        Some(assignments) => {
            let strangers: BTreeSet<BrokerId> =
                assignments.iter().flatten().filter(|id| !live.contains(id)).copied().collect();
            if !strangers.is_empty() {
                let strangers = listed(&strangers.into_iter().collect::<Vec<_>>());
                return Err(TopicError::InvalidAssignment(format!(
                    "Unknown broker(s) in replica assignment: {strangers}."
                )));
            }
            if i32::try_from(assignments.len()) != Ok(count - first) {
                return Err(TopicError::InvalidAssignment(format!(
                    "Increasing the number of partitions by {} but {} assignments provided.",
                    count - first,
                    assignments.len()
                )));
            }
            let added = (first..).zip(assignments.iter().cloned()).collect();
            validate_added(&added, of_first.len(), &live)?;
            added
        }
        None => {
            // Goes on where the existing partitions began.
            let leader = of_first.first().copied().unwrap_or(0);
            let index = brokers.iter().position(|broker| broker.id.0 >= leader).unwrap_or(0);
            let factor = i16::try_from(of_first.len()).unwrap_or(i16::MAX);
            assign(brokers, count - first, factor, first, Start { index, shift: index })?
        }
    };
    topic.partitions.extend(added.into_iter().map(|(partition, replicas)| (partition, assigned(&replicas))));
    Ok(topic)
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AutoCreateError {
    /// Another request is creating it.
    InFlight,
    Refused(TopicError),
}

/// A topic that is being created; dropping it lets others try.
struct Claim<'a> {
    topics: &'a Topics,
    name: String,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.topics.in_flight.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

fn assigned(replicas: &[BrokerId]) -> PartitionAssignment {
    PartitionAssignment { replicas: replicas.iter().map(|id| id.0).collect(), ..PartitionAssignment::default() }
}

/// What the broker's own settings say about a topic that nobody has described.
/// Source: kafka 3.9 GroupCoordinatorAdapter.scala, TransactionStateManager.scala (transactionTopicConfigs).
fn automatic(config: &KafkaConfig, name: &str) -> (Wish, Properties) {
    let (partitions, replication_factor, overrides) = match name {
        GROUP_METADATA_TOPIC => {
            let group = config.group_config();
            let overrides = vec![
                ("cleanup.policy", "compact".to_owned()),
                ("compression.type", "producer".to_owned()),
                ("segment.bytes", group.offsets_topic_segment_bytes.to_string()),
            ];
            (Some(group.offsets_topic_num_partitions), Some(group.offsets_topic_replication_factor), overrides)
        }
        TRANSACTION_STATE_TOPIC => {
            let transaction = config.transaction_config();
            let overrides = vec![
                ("cleanup.policy", "compact".to_owned()),
                ("compression.type", "uncompressed".to_owned()),
                ("min.insync.replicas", transaction.state_log_min_isr.to_string()),
                ("segment.bytes", transaction.state_log_segment_bytes.to_string()),
                ("unclean.leader.election.enable", "false".to_owned()),
            ];
            (Some(transaction.state_log_num_partitions), Some(transaction.state_log_replication_factor), overrides)
        }
        _ => (None, None, Vec::new()),
    };
    let wish = Wish::Spread { partitions, replication_factor };
    (wish, overrides.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}
