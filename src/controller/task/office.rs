//! The office: what a controller keeps, how it is taken, and how the core's events and actions are carried out.
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use log::{info, warn};
use odradek_zookeeper::brokers::ids;
use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::requests::Read;
use odradek_zookeeper::session::{Stat, ZooKeeper};
use odradek_zookeeper::znode;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::controller::active::{
    Action, Active, AllocationRefusal, Answer, Event, Request, RequestId, Settings, Snapshot, TopicRead,
};
use crate::controller::state::Broker;
use crate::controller::task::candidacy::{FIRST_REBALANCE_DELAY, Task};
use crate::controller::task::channel::Channels;
use crate::controller::task::cluster::{BrokerRead, ClusterState};
use crate::controller::task::watches::{ReadTopic, armed, is_current, legal_topics, read_topics, unwatched};
use crate::controller::task::{Input, WatchId};
use crate::metadata::features::{FeatureLevels, incompatible};
use crate::model::{BrokerId, ControllerEpoch};

/// What exists only while this broker is the controller. Dropping it stops every task below.
pub(super) struct Office {
    pub(super) core: Active,
    pub(super) zookeeper: ClusterState,
    pub(super) channels: Channels,
    pub(super) watches: JoinSet<()>,
    /// The live brokers as they last registered in a way that can be understood.
    pub(super) brokers: BTreeMap<BrokerId, Broker>,
    /// The features that whoever takes part must support.
    pub(super) finalized: FeatureLevels,
    /// One for each registration, whether or not it can be understood.
    pub(super) broker_watches: HashMap<BrokerId, AbortHandle>,
    pub(super) topic_watches: HashMap<Arc<str>, AbortHandle>,
    /// Who waits for an answer, by the number of the request.
    pub(super) asked: HashMap<RequestId, oneshot::Sender<Answer>>,
    pub(super) requests: u64,
}

impl Office {
    /// The brokers that take part: who does not support what is finalized does not.
    fn live(&self) -> Vec<Broker> {
        let takes_part = |broker: &&Broker| incompatible(&broker.features, &self.finalized).is_empty();
        self.brokers.values().filter(takes_part).cloned().collect()
    }

    fn answer(&mut self, id: RequestId, answer: Answer) {
        if let Some(asked) = self.asked.remove(&id) {
            // Whoever asked may have gone.
            let _ = asked.send(answer);
        }
    }

    /// Takes over what stands in a registration.
    fn broker_read(&mut self, broker: BrokerId, read: Read) {
        match self.zookeeper.broker_read(broker, read) {
            BrokerRead::Registered(registered) => {
                let unsupported = incompatible(&registered.features, &self.finalized);
                if !unsupported.is_empty() {
                    warn!(
                        "the registration of broker {broker} is ignored: it does not support {unsupported:?}, which is finalized"
                    );
                }
                self.brokers.insert(broker, registered);
            }
            BrokerRead::Gone => {
                self.brokers.remove(&broker);
            }
            // It lives as long as its registration is the same one, whatever somebody has written there.
            BrokerRead::NotUnderstood { epoch } => {
                if self.brokers.get(&broker).is_some_and(|known| epoch.is_some_and(|epoch| known.epoch != epoch)) {
                    self.brokers.remove(&broker);
                }
            }
        }
    }
}

impl Task {
    /// Watches are armed before anything is read, so that no change falls between. Everything goes through the session
    /// that the election was won under.
    pub(super) async fn take_office(
        &mut self,
        zk: &ZooKeeper,
        epoch: ControllerEpoch,
        epoch_zk_version: i32,
    ) -> Result<(), ZkError> {
        let prefix = self.log_prefix();
        let zookeeper = ClusterState::new(zk.fenced(epoch_zk_version), self.config.clone());
        let finalized = zookeeper.set_up_features().await?;
        let mut brokers = zk.watch_children(znode::broker::ROOT);
        let mut topics = zk.watch_children(znode::topic::ROOT);
        let mut deletions = zk.watch_children(znode::delete_topic::ROOT);
        let broker_ids = ids(&brokers.arm().await?);
        let topic_names = legal_topics(zk, topics.arm().await?);
        let deletion_names = deletions.arm().await?;
        info!("{prefix} Deleting log dir event and isr change notifications");
        zookeeper.delete_notifications().await?;
        info!("{prefix} Initializing controller context");

        let settings = Settings {
            broker_id: self.broker_id,
            protocol: self.config.inter_broker_protocol_version,
            inter_broker_listener: self.config.inter_broker_listener_name.clone(),
            delete_topic_enable: self.config.delete_topic_enable,
        };
        let channels = Channels::new(self.broker_id, epoch, &self.config, self.inputs.clone());
        let (core, nothing) = Active::elected(settings.clone(), epoch, Snapshot::default());
        drop(nothing);
        let mut office = Office {
            core,
            zookeeper,
            channels,
            watches: JoinSet::new(),
            brokers: BTreeMap::new(),
            finalized,
            broker_watches: HashMap::new(),
            topic_watches: HashMap::new(),
            asked: HashMap::new(),
            requests: 0,
        };
        self.read_brokers(zk, &mut office, epoch, broker_ids).await?;
        let (mut found, mut not_understood) = (Vec::new(), BTreeSet::new());
        for ReadTopic { name, watch, topic } in read_topics(zk, topic_names).await? {
            if topic.is_none() {
                not_understood.insert(name.to_string());
            }
            if let Some(watch) = watch {
                let watching = self.watch_topic(&mut office.watches, epoch, Arc::clone(&name), watch);
                office.topic_watches.insert(name, watching);
            }
            found.extend(topic.filter(|topic| topic.found.is_some()));
        }
        self.keep_ids(&office.zookeeper, &mut found).await?;
        let leaderships = office.zookeeper.leaderships(&found).await?;
        let latest = leaderships.iter().map(|read| read.leadership.controller_epoch).max();
        if let Some(latest) = latest.filter(|latest| *latest > epoch) {
            // Somebody has set the epoch back: no broker would obey. The next try begins behind it.
            self.epoch_known = latest;
            return Err(ZkError::Other {
                path: znode::controller_epoch::PATH.to_owned(),
                reason: format!("epoch {epoch} was won, but partitions were written under {latest}"),
            });
        }
        let watches = &mut office.watches;
        self.watch_list(watches, brokers, move |children| Input::BrokersChanged { epoch, children });
        let of_names = zk.clone();
        self.watch_list(watches, topics, move |names| Input::Event {
            epoch,
            event: Event::TopicNames(legal_topics(&of_names, names)),
        });
        // Listed when its turn comes: of what was marked when the watch fired some may be gone since, and made again.
        self.watch_list(watches, deletions, move |_| Input::DeletionsRequested { epoch });
        let log_dirs = zk.watch_children(znode::log_dir_event::ROOT);
        self.watch_list(watches, log_dirs, move |children| Input::LogDirEvents { epoch, children });
        let isr_changes = zk.watch_children(znode::isr_change::ROOT);
        self.watch_list(watches, isr_changes, move |children| Input::IsrChanges { epoch, children });

        let elections = zk.watch_data(znode::preferred_replica_election::PATH);
        self.watch_request(watches, elections, move || Input::PreferredElectionRequested { epoch });
        let reassignments = zk.watch_data(znode::reassign_partitions::PATH);
        self.watch_request(watches, reassignments, move || Input::ReassignmentsRequested { epoch });

        let live = office.live();
        let snapshot =
            Snapshot { brokers: live, topics: found, leaderships, deletions: deletion_names, not_understood };
        let (core, actions) = Active::elected(settings, epoch, snapshot);
        office.core = core;
        self.office = Some(office);
        self.published.send_replace(Some(epoch));
        self.rebalance_at = self.config.auto_leader_rebalance_enable.then(|| Instant::now() + FIRST_REBALANCE_DELAY);
        info!("{prefix} Ready to serve as the new controller with epoch {epoch}");
        self.perform(actions).await
    }

    /// Reads registrations by arming a watch on each.
    async fn read_brokers(
        &self,
        zk: &ZooKeeper,
        office: &mut Office,
        epoch: ControllerEpoch,
        ids: Vec<i32>,
    ) -> Result<(), ZkError> {
        let paths = ids.into_iter().map(|id| (znode::broker::path(id), BrokerId(id)));
        for (broker, watch, read) in armed(zk, paths).await? {
            office.broker_read(broker, read);
            let watching = self.watch_broker(&mut office.watches, epoch, broker, watch);
            if let Some(former) = office.broker_watches.insert(broker, watching) {
                former.abort();
            }
        }
        Ok(())
    }

    pub(super) async fn process(&mut self, event: Event) -> Result<(), ZkError> {
        let Some(office) = &mut self.office else { return Ok(()) };
        if let Event::TopicNames(names) = &event {
            for topic in unwatched(&mut office.topic_watches, names) {
                office.zookeeper.zk().mended(&znode::topic::path(&topic));
            }
        }
        self.counters.event(&event);
        let actions = office.core.on_event(event);
        self.perform(actions).await
    }

    pub(super) async fn requested(&mut self, request: Request, answer: oneshot::Sender<Answer>) -> Result<(), ZkError> {
        let Some(office) = &mut self.office else { return Ok(()) };
        let id = RequestId(office.requests);
        office.requests += 1;
        office.asked.insert(id, answer);
        self.process(Event::Requested { id, request }).await
    }

    /// Performs actions in order; what their outcomes lead to comes after them.
    async fn perform(&mut self, actions: Vec<Action>) -> Result<(), ZkError> {
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            let Some(office) = &mut self.office else { return Ok(()) };
            self.counters.action(&action);
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
                Action::WriteTopicIds(writes) => {
                    Some(Event::TopicIdsWritten(office.zookeeper.write_topics(writes).await?))
                }
                Action::WriteLeaderships(writes) => {
                    Some(Event::LeadershipsWritten(office.zookeeper.write_leaderships(writes).await?))
                }
                Action::WriteAssignments(writes) => {
                    Some(Event::AssignmentsWritten(office.zookeeper.write_topics(writes).await?))
                }
                Action::ForgetReassignments(struck) => {
                    office.zookeeper.forget_reassignments(&struck).await?;
                    None
                }
                Action::ReadUncleanElection(topics) => {
                    let allowed = office.zookeeper.unclean_election_allowed(&topics).await?;
                    Some(Event::UncleanElectionRead { asked: topics, allowed })
                }
                Action::DeleteTopic(topic) => {
                    if let Some(watching) = office.topic_watches.remove(&topic) {
                        watching.abort();
                    }
                    Some(match office.zookeeper.delete_topic(&topic).await? {
                        Some(()) => Event::TopicDeleted { topic },
                        None => Event::TopicNotDeleted { topic },
                    })
                }
                Action::DeleteMarkers(topics) => {
                    office.zookeeper.delete_markers(&topics).await?;
                    None
                }
                Action::AllocateProducerIds { id, broker } => {
                    let ids = office.zookeeper.allocate_producer_ids(broker).await?;
                    office.answer(id, Answer::ProducerIds(ids.ok_or(AllocationRefusal::NotWritten)));
                    None
                }
                Action::UpdateFeatures { id, updates, validate_only, brokers } => {
                    let updated = office.zookeeper.update_features(&updates, validate_only, &brokers).await?;
                    let updated = updated.map(|(updated, finalized)| {
                        office.finalized = finalized;
                        updated
                    });
                    office.answer(id, Answer::FeaturesUpdated(updated));
                    // Whoever did not take part may do so now.
                    Some(Event::Brokers(office.live()))
                }
                Action::Answer { id, answer } => {
                    office.answer(id, answer);
                    None
                }
            };
            if let Some(event) = outcome {
                let Some(office) = &mut self.office else { return Ok(()) };
                self.counters.event(&event);
                actions.extend(office.core.on_event(event));
            }
        }
        Ok(())
    }

    async fn read_and_watch(&mut self, names: Vec<String>) -> Result<Event, ZkError> {
        let Some(office) = &self.office else { return Ok(Event::TopicsRead(Vec::new())) };
        let (zk, epoch) = (office.zookeeper.zk().clone(), office.core.epoch());
        let read = read_topics(&zk, names).await?;
        let Some(mut office) = self.office.take() else { return Ok(Event::TopicsRead(Vec::new())) };
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
        if let Some(office) = &self.office {
            self.keep_ids(&office.zookeeper, &mut topics).await?;
        }
        Ok(Event::TopicsRead(topics))
    }

    /// Reads those that are new; the watches of the others tell of their changes.
    pub(super) async fn brokers_changed(&mut self, children: Vec<String>) -> Result<(), ZkError> {
        let Some(mut office) = self.office.take() else { return Ok(()) };
        let live: BTreeSet<i32> = ids(&children).into_iter().collect();
        office.broker_watches.retain(|id, watching| {
            let is_live = live.contains(&id.0);
            if !is_live {
                watching.abort();
            }
            is_live
        });
        office.brokers.retain(|id, _| live.contains(&id.0));
        let new = live.into_iter().filter(|id| !office.broker_watches.contains_key(&BrokerId(*id))).collect();
        let (zk, epoch) = (office.zookeeper.zk().clone(), office.core.epoch());
        // Dropped in the middle of this, the office is given up.
        let read = self.read_brokers(&zk, &mut office, epoch, new).await;
        let brokers = office.live();
        self.office = Some(office);
        read?;
        self.process(Event::Brokers(brokers)).await
    }

    pub(super) async fn broker_changed(
        &mut self,
        watch: WatchId,
        broker: BrokerId,
        data: Option<(Vec<u8>, Stat)>,
    ) -> Result<(), ZkError> {
        let Some(office) = &mut self.office else { return Ok(()) };
        if !is_current(&office.broker_watches, &broker, watch) {
            return Ok(());
        }
        office.broker_read(broker, Ok(data));
        let brokers = office.live();
        self.process(Event::Brokers(brokers)).await
    }

    pub(super) async fn topic_changed(&mut self, watch: WatchId, topic: TopicRead) -> Result<(), ZkError> {
        let Some(office) = &self.office else { return Ok(()) };
        if !is_current(&office.topic_watches, &topic.name, watch) {
            return Ok(());
        }
        let mut topics = vec![topic];
        self.keep_ids(&office.zookeeper, &mut topics).await?;
        self.process(Event::TopicsRead(topics)).await
    }

    /// Brokers that lost a log directory: telling them about their replicas again makes them say which are affected.
    pub(super) async fn log_dir_events(&mut self, children: Vec<String>) -> Result<(), ZkError> {
        let Some(office) = &mut self.office else { return Ok(()) };
        if children.is_empty() {
            return Ok(());
        }
        let brokers = office.zookeeper.log_dir_events(&children).await?;
        info!("[Controller id={}] brokers {brokers:?} lost log directories", self.broker_id);
        let event = Event::LogDirsFailed(brokers);
        self.counters.event(&event);
        let actions = office.core.on_event(event);
        self.perform(actions).await?;
        let Some(office) = &mut self.office else { return Ok(()) };
        office.zookeeper.delete_children(znode::log_dir_event::ROOT, &children).await
    }

    /// The znode goes whatever came of it, so that the next one is heard of.
    pub(super) async fn deletions_requested(&mut self) -> Result<(), ZkError> {
        let Some(office) = &self.office else { return Ok(()) };
        let marked = office.zookeeper.zk().children(znode::delete_topic::ROOT).await?;
        self.process(Event::DeletionsRequested(marked)).await
    }

    pub(super) async fn preferred_election_requested(&mut self) -> Result<(), ZkError> {
        let Some(office) = &self.office else { return Ok(()) };
        let asked = office.zookeeper.preferred_election_requested().await?;
        let Some((asked, version)) = asked else { return Ok(()) };
        self.process(Event::PreferredElectionRequested(asked)).await?;
        let Some(office) = &self.office else { return Ok(()) };
        office.zookeeper.remove(znode::preferred_replica_election::PATH, version).await
    }

    pub(super) async fn reassignments_requested(&mut self) -> Result<(), ZkError> {
        let Some(office) = &self.office else { return Ok(()) };
        let asked = office.zookeeper.reassignments_requested().await?;
        self.process(Event::ReassignmentsRequested(asked)).await
    }

    /// Leaders below inter-broker protocol 2.7-IV2 wrote ISRs themselves.
    pub(super) async fn isr_changes(&mut self, children: Vec<String>) -> Result<(), ZkError> {
        let Some(office) = &mut self.office else { return Ok(()) };
        if children.is_empty() {
            return Ok(());
        }
        let leaderships = office.zookeeper.isr_changes(&children).await?;
        let event = Event::IsrsChanged(leaderships);
        self.counters.event(&event);
        let actions = office.core.on_event(event);
        self.perform(actions).await?;
        let Some(office) = &mut self.office else { return Ok(()) };
        office.zookeeper.delete_children(znode::isr_change::ROOT, &children).await
    }
}
