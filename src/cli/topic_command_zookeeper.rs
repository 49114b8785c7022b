//! kafka-topics.sh with `--zookeeper`, as the tools before 3.0 had it.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;

use odradek_zookeeper::session::ZooKeeper;
use odradek_zookeeper::znode::config::ConfigEntity;

use crate::cli::options::{Options, Stop};
use crate::cli::topic_command::{
    DescribedPartition, DescribedTopic, filtered, parse_configs, parse_replica_assignment, print_description,
    warn_of_collisions,
};
use crate::cli::zookeeper::connect;
use crate::config::kafka_config::KafkaConfig;
use crate::config::properties::Properties;
use crate::config::topic_settings::validate;
use crate::controller::assignment::Candidate;
use crate::controller::task::topic_administration::{Mode, Topics, Wish};
use crate::controller::topic_validation::TopicError;
use crate::model::internal_topics::is_internal_topic;
use crate::model::{BrokerId, TopicId};

/// kafka-topics.sh as of Kafka 2.8 with `--zookeeper`: reads and writes the znodes itself, without asking a broker.
/// Source: kafka 2.8.2 core/src/main/scala/kafka/admin/TopicCommand.scala, ZookeeperTopicService.
pub(crate) async fn run(options: &Options, hosts: &str, out: &mut dyn Write) -> Result<(), Stop> {
    let zookeeper = connect(hosts).await?;
    let outcome = run_action(options, hosts, &zookeeper, out).await;
    zookeeper.close().await;
    outcome
}

impl From<TopicError> for Stop {
    fn from(error: TopicError) -> Stop {
        Stop::Failed(error.to_string())
    }
}

async fn run_action(options: &Options, hosts: &str, zookeeper: &ZooKeeper, out: &mut dyn Write) -> Result<(), Stop> {
    if options.has("create") {
        return create(options, hosts, zookeeper, out).await;
    }
    let names = filtered(options, zookeeper.topics().await?)?;
    if options.has("list") {
        for name in &names {
            let mark = if zookeeper.is_marked_for_deletion(name).await? { " - marked for deletion" } else { "" };
            writeln!(out, "{name}{mark}")?;
        }
        return Ok(());
    }
    if let Some(topic) = options.value("topic")
        && names.is_empty()
        && !options.has("if-exists")
    {
        return Err(Stop::Failed(format!("Topic '{topic}' does not exist as expected")));
    }
    if options.has("describe") {
        describe(options, zookeeper, &names, out).await
    } else if options.has("alter") {
        for name in &names {
            alter(options, hosts, zookeeper, name, out).await?;
        }
        Ok(())
    } else {
        for name in &names {
            delete(zookeeper, name, out).await?;
        }
        Ok(())
    }
}

/// A broker's defaults, against which the settings of a topic are checked.
fn defaults(hosts: &str) -> Result<KafkaConfig, Stop> {
    let properties = Properties::from([("zookeeper.connect".to_owned(), hosts.to_owned())]);
    KafkaConfig::from_properties(&properties).map_err(|error| Stop::Failed(error.to_string()))
}

/// The registered brokers in the order of their ids. Racks count unless some brokers have none.
async fn candidates(options: &Options, zookeeper: &ZooKeeper) -> Result<Vec<Candidate>, Stop> {
    let mut candidates: Vec<Candidate> = zookeeper
        .brokers()
        .await?
        .into_iter()
        .map(|registered| Candidate { id: BrokerId(registered.broker.id), rack: registered.broker.rack })
        .collect();
    candidates.sort_by_key(|candidate| candidate.id);
    if options.has("disable-rack-aware") {
        candidates.iter_mut().for_each(|candidate| candidate.rack = None);
    }
    let with_rack = candidates.iter().filter(|candidate| candidate.rack.is_some()).count();
    if with_rack > 0 && with_rack < candidates.len() {
        return Err(Stop::Failed(
            "Not all brokers have rack information. Add --disable-rack-aware in command line to make replica \
             assignment without rack information."
                .to_owned(),
        ));
    }
    Ok(candidates)
}

fn assignment_of(options: &Options) -> Result<Option<Vec<Vec<BrokerId>>>, Stop> {
    let Some(text) = options.value("replica-assignment").filter(|text| !text.is_empty()) else { return Ok(None) };
    let assignment = parse_replica_assignment(text)?;
    Ok(Some(assignment.into_iter().map(|replicas| replicas.into_iter().map(BrokerId).collect()).collect()))
}

async fn create(options: &Options, hosts: &str, zookeeper: &ZooKeeper, out: &mut dyn Write) -> Result<(), Stop> {
    let name = options.required("topic")?;
    let configs: Properties = parse_configs(options)?;
    warn_of_collisions(name, out)?;
    let wish = match assignment_of(options)? {
        Some(assignment) => Wish::Assigned((0..).zip(assignment).collect()),
        None => Wish::Spread {
            partitions: options.number("partitions")?,
            replication_factor: options.number("replication-factor")?,
        },
    };
    let brokers = candidates(options, zookeeper).await?;
    let topics = Topics::new(zookeeper.clone());
    match topics.create(&defaults(hosts)?, &brokers, name, wish, &configs, Mode::Create).await {
        Ok(_) => Ok(writeln!(out, "Created topic {name}.")?),
        Err(TopicError::Exists(_)) if options.has("if-not-exists") => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn alter(
    options: &Options,
    hosts: &str,
    zookeeper: &ZooKeeper,
    name: &str,
    out: &mut dyn Write,
) -> Result<(), Stop> {
    if options.has("config") || options.has("delete-config") {
        writeln!(
            out,
            "WARNING: Altering topic configuration from this script has been deprecated and may be removed in future \
             releases.\n         Going forward, please use kafka-configs.sh for this functionality"
        )?;
        let entity = ConfigEntity::Topic(name.to_owned());
        let existing = zookeeper.config(&entity).await?;
        let mut configs = existing.clone();
        configs.extend(parse_configs(options)?);
        for key in options.values("delete-config") {
            configs.remove(key.trim());
        }
        validate(&defaults(hosts)?.topic_defaults(), &existing, &configs)
            .map_err(|error| Stop::Failed(error.to_string()))?;
        zookeeper.set_config(&entity, &configs).await?;
        writeln!(out, "Updated config for topic {name}.")?;
    }
    if let Some(count) = options.number::<i32>("partitions")? {
        if is_internal_topic(name) {
            let reason = format!("The number of partitions for the internal topic {name} cannot be changed.");
            return Err(Stop::Failed(reason));
        }
        writeln!(
            out,
            "WARNING: If partitions are increased for a topic that has a key, the partition logic or ordering of the \
             messages will be affected"
        )?;
        let has = zookeeper.topic(name).await?.map_or(0, |topic| topic.value.partitions.len());
        let added = assignment_of(options)?.map(|all| all.into_iter().skip(has).collect());
        Topics::new(zookeeper.clone()).add_partitions(name, count, added, Mode::Create).await?;
        writeln!(out, "Adding partitions succeeded!")?;
    }
    Ok(())
}

async fn delete(zookeeper: &ZooKeeper, name: &str, out: &mut dyn Write) -> Result<(), Stop> {
    if is_internal_topic(name) {
        let reason = format!("Topic {name} is a kafka internal topic and is not allowed to be marked for deletion.");
        return Err(Stop::Failed(reason));
    }
    if zookeeper.is_marked_for_deletion(name).await? {
        return Ok(writeln!(out, "Topic {name} is already marked for deletion.")?);
    }
    Topics::new(zookeeper.clone()).delete(name).await?;
    writeln!(out, "Topic {name} is marked for deletion.")?;
    Ok(writeln!(out, "Note: This will have no impact if delete.topic.enable is not set to true.")?)
}

async fn describe(options: &Options, zookeeper: &ZooKeeper, names: &[String], out: &mut dyn Write) -> Result<(), Stop> {
    let live: HashSet<i32> = zookeeper.broker_ids().await?.into_iter().collect();
    let topics = zookeeper.topics_of(names).await?;
    for name in names {
        let Some(topic) = topics.get(name) else {
            writeln!(out, "Topic {name} doesn't exist!")?;
            continue;
        };
        let partitions: Vec<(&str, i32)> = topic.partitions.keys().map(|id| (name.as_str(), *id)).collect();
        let states = zookeeper.partition_states(&partitions).await;
        let mut partitions = Vec::new();
        for ((index, assignment), state) in topic.partitions.iter().zip(states) {
            let state = state?.map(|(state, _)| state);
            partitions.push(DescribedPartition {
                index: *index,
                leader: state.as_ref().map(|state| state.leader).filter(|leader| *leader >= 0),
                replicas: assignment.replicas.clone(),
                isr: state.map_or_else(Vec::new, |state| state.isr),
                moving: None,
            });
        }
        let configs: BTreeMap<String, String> = zookeeper.config(&ConfigEntity::Topic(name.clone())).await?;
        let described = DescribedTopic {
            name: name.clone(),
            topic_id: topic.topic_id.as_deref().and_then(|id| id.parse().ok()).unwrap_or(TopicId::ZERO),
            min_insync_replicas: configs.get("min.insync.replicas").and_then(|text| text.parse().ok()),
            configs: configs.into_iter().collect(),
            partitions,
            is_marked_for_deletion: zookeeper.is_marked_for_deletion(name).await?,
            has_eligible_leaders: false,
        };
        print_description(&described, options, &live, out)?;
    }
    Ok(())
}
