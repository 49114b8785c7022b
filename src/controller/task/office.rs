//! The office: what a controller keeps, how it is taken, and how the core's events and actions are carried out.
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use log::info;
use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::znode;
use tokio::task::{AbortHandle, JoinSet};

use crate::controller::active::{Action, Active, Event, Settings, Snapshot};
use crate::controller::task::Input;
use crate::controller::task::candidacy::Task;
use crate::controller::task::channel::Channels;
use crate::controller::task::cluster::ClusterState;
use crate::controller::task::watches::{ReadTopic, read_topics};
use crate::model::{BrokerId, ControllerEpoch};

/// What exists only while this broker is the controller. Dropping it stops every task below.
pub(super) struct Office {
    pub(super) core: Active,
    pub(super) zookeeper: ClusterState,
    pub(super) channels: Channels,
    pub(super) watches: JoinSet<()>,
    pub(super) broker_watches: HashMap<BrokerId, AbortHandle>,
    pub(super) topic_watches: HashMap<Arc<str>, AbortHandle>,
}

impl Task {
    /// Watches are armed before anything is read, so that no change falls between.
    pub(super) async fn take_office(&mut self, epoch: ControllerEpoch, epoch_zk_version: i32) -> Result<(), ZkError> {
        let prefix = self.log_prefix();
        let zookeeper = ClusterState::new(self.zk.fenced(epoch_zk_version), self.config.clone());
        zookeeper.set_up_features().await?;
        let mut brokers = self.zk.watch_children(znode::broker::ROOT);
        let mut topics = self.zk.watch_children(znode::topic::ROOT);
        let mut deletions = self.zk.watch_children(znode::delete_topic::ROOT);
        let broker_ids = odradek_zookeeper::brokers::ids(&brokers.arm().await?);
        let topic_names = topics.arm().await?;
        let deletion_names = deletions.arm().await?;
        info!("{prefix} Deleting log dir event and isr change notifications");
        zookeeper.delete_notifications().await?;
        info!("{prefix} Initializing controller context");

        let mut watches = JoinSet::new();
        let mut broker_watches = HashMap::new();
        for id in broker_ids {
            let watch = self.zk.watch_data(znode::broker::path(id));
            broker_watches.insert(BrokerId(id), self.watch_broker(&mut watches, epoch, watch));
        }
        let mut topic_watches = HashMap::new();
        let mut found = Vec::new();
        for ReadTopic { name, watch, topic } in read_topics(&self.zk, topic_names).await? {
            if let Some(watch) = watch {
                topic_watches.insert(Arc::clone(&name), self.watch_topic(&mut watches, epoch, name, watch));
            }
            found.extend(topic.filter(|topic| topic.found.is_some()));
        }
        let leaderships = zookeeper.leaderships(&found).await?;
        let live = zookeeper.brokers().await?;
        self.watch_list(&mut watches, brokers, move |_| Input::BrokersChanged { epoch });
        self.watch_list(&mut watches, topics, move |names| Input::Event { epoch, event: Event::TopicNames(names) });
        self.watch_list(&mut watches, deletions, move |names| Input::Event {
            epoch,
            event: Event::DeletionsRequested(names),
        });
        let log_dirs = self.zk.watch_children(znode::log_dir_event::ROOT);
        self.watch_list(&mut watches, log_dirs, move |children| Input::LogDirEvents { epoch, children });
        let isr_changes = self.zk.watch_children(znode::isr_change::ROOT);
        self.watch_list(&mut watches, isr_changes, move |children| Input::IsrChanges { epoch, children });

        let snapshot = Snapshot { brokers: live, topics: found, leaderships, deletions: deletion_names };
        let settings = Settings {
            broker_id: self.broker_id,
            protocol: self.config.inter_broker_protocol_version,
            inter_broker_listener: self.config.inter_broker_listener_name.clone(),
            delete_topic_enable: self.config.delete_topic_enable,
        };
        let (core, actions) = Active::elected(settings, epoch, snapshot);
        let channels = Channels::new(self.broker_id, epoch, &self.config, self.inputs.clone());
        self.office = Some(Office { core, zookeeper, channels, watches, broker_watches, topic_watches });
        self.published.send_replace(Some(epoch));
        info!("{prefix} Ready to serve as the new controller with epoch {epoch}");
        self.perform(actions).await
    }

    pub(super) async fn process(&mut self, event: Event) -> Result<(), ZkError> {
        let Some(office) = &mut self.office else { return Ok(()) };
        let actions = office.core.on_event(event);
        self.perform(actions).await
    }

    /// Performs actions in order; what their outcomes lead to comes after them.
    async fn perform(&mut self, actions: Vec<Action>) -> Result<(), ZkError> {
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            let Some(office) = &mut self.office else { return Ok(()) };
            let outcome = match action {
                Action::Connect(broker) => {
                    office.channels.connect(&broker);
                    None
                }
                Action::Disconnect(broker) => {
                    office.channels.disconnect(broker);
                    None
                }
                Action::Send(outgoing) => {
                    office.channels.send(outgoing);
                    None
                }
                Action::ReadTopics(names) => Some(self.read_and_watch(names).await?),
                Action::UnwatchTopic(topic) => {
                    if let Some(watching) = office.topic_watches.remove(&topic) {
                        watching.abort();
                    }
                    None
                }
                Action::WriteTopic { topic, id, found } => {
                    office.zookeeper.write_topic(&topic, id, &found).await?;
                    None
                }
                Action::WriteLeaderships(writes) => {
                    Some(Event::LeadershipsWritten(office.zookeeper.write_leaderships(writes).await?))
                }
                Action::ReadUncleanElection(topics) => {
                    let allowed = office.zookeeper.unclean_election_allowed(&topics).await?;
                    Some(Event::UncleanElectionRead { asked: topics, allowed })
                }
                Action::DeleteTopic(topic) => {
                    if let Some(watching) = office.topic_watches.remove(&topic) {
                        watching.abort();
                    }
                    office.zookeeper.delete_topic(&topic).await?;
                    Some(Event::TopicDeleted { topic })
                }
                Action::DeleteMarkers(topics) => {
                    office.zookeeper.delete_markers(&topics).await?;
                    None
                }
            };
            if let Some(event) = outcome {
                let Some(office) = &mut self.office else { return Ok(()) };
                actions.extend(office.core.on_event(event));
            }
        }
        Ok(())
    }

    async fn read_and_watch(&mut self, names: Vec<String>) -> Result<Event, ZkError> {
        let read = read_topics(&self.zk, names).await?;
        let Some(mut office) = self.office.take() else { return Ok(Event::TopicsRead(Vec::new())) };
        let epoch = office.core.epoch();
        let mut topics = Vec::new();
        for ReadTopic { name, watch, topic } in read {
            if let Some(watch) = watch {
                let watching = self.watch_topic(&mut office.watches, epoch, Arc::clone(&name), watch);
                if let Some(former) = office.topic_watches.insert(name, watching) {
                    former.abort();
                }
            }
            topics.extend(topic);
        }
        self.office = Some(office);
        Ok(Event::TopicsRead(topics))
    }

    pub(super) async fn brokers_changed(&mut self) -> Result<(), ZkError> {
        let Some(mut office) = self.office.take() else { return Ok(()) };
        let read = office.zookeeper.brokers().await;
        if let Ok(brokers) = &read {
            office.broker_watches.retain(|id, watching| {
                let live = brokers.iter().any(|broker| broker.id == *id);
                if !live {
                    watching.abort();
                }
                live
            });
            for broker in brokers {
                if !office.broker_watches.contains_key(&broker.id) {
                    let watch = self.zk.watch_data(znode::broker::path(broker.id.0));
                    let watching = self.watch_broker(&mut office.watches, office.core.epoch(), watch);
                    office.broker_watches.insert(broker.id, watching);
                }
            }
        }
        self.office = Some(office);
        self.process(Event::Brokers(read?)).await
    }

    /// Brokers that lost a log directory: telling them about their replicas again makes them say which are affected.
    pub(super) async fn log_dir_events(&mut self, children: Vec<String>) -> Result<(), ZkError> {
        let Some(office) = &mut self.office else { return Ok(()) };
        if children.is_empty() {
            return Ok(());
        }
        let brokers = office.zookeeper.log_dir_events(&children).await?;
        info!("[Controller id={}] brokers {brokers:?} lost log directories", self.broker_id);
        let actions = office.core.on_event(Event::LogDirsFailed(brokers));
        self.perform(actions).await?;
        let Some(office) = &mut self.office else { return Ok(()) };
        office.zookeeper.delete_children(znode::log_dir_event::ROOT, &children).await
    }

    /// Leaders below inter-broker protocol 2.7-IV2 wrote ISRs themselves.
    pub(super) async fn isr_changes(&mut self, children: Vec<String>) -> Result<(), ZkError> {
        let Some(office) = &mut self.office else { return Ok(()) };
        if children.is_empty() {
            return Ok(());
        }
        let leaderships = office.zookeeper.isr_changes(&children).await?;
        let actions = office.core.on_event(Event::IsrsChanged(leaderships));
        self.perform(actions).await?;
        let Some(office) = &mut self.office else { return Ok(()) };
        office.zookeeper.delete_children(znode::isr_change::ROOT, &children).await
    }
}
