//! The shell of the controller: takes part in elections, keeps the core supplied with events while in office, and
//! performs its actions.
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use log::{debug, error, info};
use odradek_zookeeper::election::Election;
use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::session::ZooKeeper;
use odradek_zookeeper::watch::{ChildrenWatch, DataWatch};
use odradek_zookeeper::znode;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::config::sections::ControllerConfig;
use crate::controller::active::{Action, Active, Event, Settings, Snapshot, TopicRead};
use crate::controller::task::channel::Channels;
use crate::controller::task::cluster::ClusterState;
use crate::model::clock::wall_clock_ms;
use crate::model::{BrokerId, ControllerEpoch};

pub mod channel;
pub mod cluster;
pub mod topics;

/// Events that wait for the controller; whoever brings one beyond that waits too.
const EVENTS_QUEUED_MAX: usize = 1000;
/// How long to wait before standing for election again after taking office failed.
const FAILED_ELECTION_BACKOFF: Duration = Duration::from_secs(1);

/// How the rest of the broker reaches its controller, which is in office or not.
#[derive(Clone, Debug)]
pub struct Controller {
    inputs: mpsc::Sender<Input>,
    epoch: watch::Receiver<Option<ControllerEpoch>>,
}

#[derive(Debug)]
enum Input {
    /// This broker is registered (again) and may be elected.
    Registered,
    /// The session is gone, and with it the office; answered once it has been given up.
    SessionExpired(oneshot::Sender<()>),
    /// `/controller` was created, changed or deleted.
    ControllerChanged,
    /// A registration under `/brokers/ids` appeared, changed or vanished.
    BrokersChanged {
        epoch: ControllerEpoch,
    },
    LogDirEvents {
        epoch: ControllerEpoch,
        children: Vec<String>,
    },
    IsrChanges {
        epoch: ControllerEpoch,
        children: Vec<String>,
    },
    Event {
        epoch: ControllerEpoch,
        event: Event,
    },
    Shutdown(oneshot::Sender<()>),
}

impl Controller {
    /// The controller and its task, which stands for election once the broker is registered.
    pub fn new(
        zk: ZooKeeper,
        broker_id: BrokerId,
        config: ControllerConfig,
    ) -> (Controller, impl Future<Output = ()> + Send) {
        let (inputs, queue) = mpsc::channel(EVENTS_QUEUED_MAX);
        let (published, epoch) = watch::channel(None);
        let task = Task {
            zk,
            broker_id,
            config,
            inputs: inputs.clone(),
            published,
            eligible: false,
            office: None,
            watching_controller: None,
        };
        (Controller { inputs, epoch }, task.run(queue))
    }

    /// Whether this broker is the controller, as far as it knows.
    pub fn is_active(&self) -> bool {
        self.epoch.borrow().is_some()
    }

    /// The broker's registration is in ZooKeeper, under the current session.
    pub async fn registered(&self) {
        // A task that is gone has been shut down.
        let _ = self.inputs.send(Input::Registered).await;
    }

    /// The session expired: returns when this broker no longer acts as controller.
    pub async fn session_expired(&self) {
        let (done, resigned) = oneshot::channel();
        if self.inputs.send(Input::SessionExpired(done)).await.is_ok() {
            let _ = resigned.await;
        }
    }

    /// Gives up the office, if it is held, and ends the task.
    pub async fn shutdown(&self) {
        let (done, stopped) = oneshot::channel();
        if self.inputs.send(Input::Shutdown(done)).await.is_ok() {
            let _ = stopped.await;
        }
    }
}

/// What exists only while this broker is the controller. Dropping it stops every task below.
struct Office {
    core: Active,
    zookeeper: ClusterState,
    channels: Channels,
    watches: JoinSet<()>,
    broker_watches: HashMap<BrokerId, AbortHandle>,
    topic_watches: HashMap<Arc<str>, AbortHandle>,
}

struct Task {
    zk: ZooKeeper,
    broker_id: BrokerId,
    config: ControllerConfig,
    inputs: mpsc::Sender<Input>,
    published: watch::Sender<Option<ControllerEpoch>>,
    /// The broker is registered under the current session.
    eligible: bool,
    office: Option<Office>,
    watching_controller: Option<AbortHandle>,
}

impl Task {
    async fn run(mut self, mut queue: mpsc::Receiver<Input>) {
        while let Some(input) = queue.recv().await {
            if let Some(office) = &mut self.office {
                reap(&mut office.watches);
            }
            let handled = match input {
                Input::Registered => {
                    self.eligible = true;
                    self.watch_controller();
                    self.stand_for_election().await
                }
                Input::SessionExpired(done) => {
                    self.eligible = false;
                    self.resign("the ZooKeeper session expired");
                    let _ = done.send(());
                    Ok(())
                }
                Input::ControllerChanged => self.controller_changed().await,
                Input::BrokersChanged { epoch } if self.holds(epoch) => self.brokers_changed().await,
                Input::LogDirEvents { epoch, children } if self.holds(epoch) => self.log_dir_events(children).await,
                Input::IsrChanges { epoch, children } if self.holds(epoch) => self.isr_changes(children).await,
                Input::Event { epoch, event } if self.holds(epoch) => self.process(event).await,
                // Left over from an office that has been given up.
                Input::BrokersChanged { .. }
                | Input::LogDirEvents { .. }
                | Input::IsrChanges { .. }
                | Input::Event { .. } => Ok(()),
                Input::Shutdown(done) => {
                    self.resign("the broker shuts down");
                    if let Some(watching) = self.watching_controller.take() {
                        watching.abort();
                    }
                    let _ = done.send(());
                    return;
                }
            };
            if let Err(error) = handled {
                self.failed(error).await;
            }
        }
    }

    fn holds(&self, epoch: ControllerEpoch) -> bool {
        self.office.as_ref().is_some_and(|office| office.core.epoch() == epoch)
    }

    fn log_prefix(&self) -> String {
        format!("[Controller id={}]", self.broker_id)
    }

    /// Something went wrong that cannot be put right in office.
    async fn failed(&mut self, error: ZkError) {
        let prefix = self.log_prefix();
        match error {
            ZkError::ControllerMoved { .. } => {
                info!("{prefix} Controller moved to another broker");
                self.resign("another broker became the controller");
                // Whoever it is may be gone by now.
                self.poke().await;
            }
            // The registration tells when there is a new session.
            ZkError::SessionExpired | ZkError::Closed => self.resign("the ZooKeeper session ended"),
            error => {
                error!("{prefix} giving up the office so that another broker can try: {error}");
                let version = self.office.as_ref().map(|office| office.zookeeper.epoch_zk_version());
                self.resign("of an error");
                tokio::time::sleep(FAILED_ELECTION_BACKOFF).await;
                match version {
                    None => self.poke().await,
                    Some(version) => {
                        if let Err(error) = self.zk.resign_controller(version).await {
                            debug!("{prefix} /controller is left as it is: {error}");
                        }
                    }
                }
            }
        }
    }

    /// Looks at `/controller` again. The queue may be full of what this task itself is to work off.
    async fn poke(&self) {
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let _ = inputs.send(Input::ControllerChanged).await;
        });
    }

    fn watch_controller(&mut self) {
        if self.watching_controller.is_some() {
            return;
        }
        let (mut watch, inputs) = (self.zk.watch_data(znode::controller::PATH), self.inputs.clone());
        let watching = tokio::spawn(async move {
            while watch.next().await.is_ok() {
                if inputs.send(Input::ControllerChanged).await.is_err() {
                    return;
                }
            }
        });
        self.watching_controller = Some(watching.abort_handle());
    }

    async fn controller_changed(&mut self) -> Result<(), ZkError> {
        let current = self.zk.controller().await?;
        let is_self = current.as_ref().is_some_and(|current| {
            current.value.broker_id == self.broker_id.0 && current.value.kraft_controller_epoch.is_none()
        });
        if self.office.is_some() && !is_self {
            self.resign("/controller names another broker or nobody");
        }
        if current.is_none() {
            return self.stand_for_election().await;
        }
        Ok(())
    }

    async fn stand_for_election(&mut self) -> Result<(), ZkError> {
        if !self.eligible || self.office.is_some() {
            return Ok(());
        }
        let prefix = self.log_prefix();
        if let Some(current) = self.zk.controller().await? {
            debug!("{prefix} Broker {} has been elected as the controller", current.value.broker_id);
            return Ok(());
        }
        match self.zk.elect_controller(self.broker_id.0, wall_clock_ms()).await? {
            Election::Lost => {
                debug!("{prefix} another broker won the election");
                Ok(())
            }
            Election::Won { epoch, epoch_zk_version } => {
                let epoch = ControllerEpoch(epoch);
                info!(
                    "{prefix} {} successfully elected as the controller. Epoch incremented to {epoch} and epoch zk version is now {epoch_zk_version}",
                    self.broker_id
                );
                let taken = self.take_office(epoch, epoch_zk_version).await;
                if let Err(error) = &taken
                    && !matches!(error, ZkError::ControllerMoved { .. } | ZkError::SessionExpired | ZkError::Closed)
                    && self.office.is_none()
                {
                    // The office was won, but never opened: `failed` cannot know the version to give it back with.
                    error!("{prefix} taking office failed: {error}");
                    tokio::time::sleep(FAILED_ELECTION_BACKOFF).await;
                    return self.zk.resign_controller(epoch_zk_version).await;
                }
                taken
            }
        }
    }

    /// Watches are armed before anything is read, so that no change falls between.
    async fn take_office(&mut self, epoch: ControllerEpoch, epoch_zk_version: i32) -> Result<(), ZkError> {
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

    fn resign(&mut self, reason: &str) {
        let Some(office) = self.office.take() else { return };
        info!("{} Resigned, epoch {}: {reason}", self.log_prefix(), office.core.epoch());
        self.published.send_replace(None);
    }

    async fn process(&mut self, event: Event) -> Result<(), ZkError> {
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

    async fn brokers_changed(&mut self) -> Result<(), ZkError> {
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
    async fn log_dir_events(&mut self, children: Vec<String>) -> Result<(), ZkError> {
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
    async fn isr_changes(&mut self, children: Vec<String>) -> Result<(), ZkError> {
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

    /// The state that a watch begins with has been read, or is delivered as its first change.
    fn watch_list(
        &self,
        watches: &mut JoinSet<()>,
        mut watch: ChildrenWatch,
        input: impl Fn(Vec<String>) -> Input + Send + 'static,
    ) {
        let inputs = self.inputs.clone();
        watches.spawn(async move {
            while let Ok(children) = watch.next().await {
                if inputs.send(input(children)).await.is_err() {
                    return;
                }
            }
        });
    }

    fn watch_broker(&self, watches: &mut JoinSet<()>, epoch: ControllerEpoch, mut watch: DataWatch) -> AbortHandle {
        let inputs = self.inputs.clone();
        watches.spawn(async move {
            while watch.next().await.is_ok() {
                if inputs.send(Input::BrokersChanged { epoch }).await.is_err() {
                    return;
                }
            }
        })
    }

    fn watch_topic(
        &self,
        watches: &mut JoinSet<()>,
        epoch: ControllerEpoch,
        name: Arc<str>,
        mut watch: DataWatch,
    ) -> AbortHandle {
        let inputs = self.inputs.clone();
        watches.spawn(async move {
            while let Ok(data) = watch.next().await {
                // The list of topics tells of deletions.
                let Some(data) = data else { continue };
                let Some(read) = cluster::topic_read(&name, Some(&data)) else { continue };
                let event = Event::TopicsRead(vec![read]);
                if inputs.send(Input::Event { epoch, event }).await.is_err() {
                    return;
                }
            }
        })
    }
}

/// Forgets tasks that ended. One that panicked takes the controller with it: it would hear of nothing any more.
fn reap(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.try_join_next() {
        if let Err(error) = ended
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// A topic as it was found.
struct ReadTopic {
    name: Arc<str>,
    /// `None` when there is no such znode.
    watch: Option<DataWatch>,
    /// `None` when its znode cannot be understood: the watch tells when it has been repaired.
    topic: Option<TopicRead>,
}

/// Reads topics by arming a watch on each.
async fn read_topics(zk: &ZooKeeper, names: Vec<String>) -> Result<Vec<ReadTopic>, ZkError> {
    let read = zk
        .pipelined(names, |name| {
            let mut watch = zk.watch_data(znode::topic::path(&name));
            Box::pin(async move {
                let data = watch.arm().await;
                (name, watch, data)
            })
        })
        .await;
    let mut topics = Vec::new();
    for (name, watch, data) in read {
        let (name, data): (Arc<str>, _) = (name.into(), data?);
        let topic = cluster::topic_read(&name, data.as_ref());
        topics.push(ReadTopic { name, watch: data.is_some().then_some(watch), topic });
    }
    Ok(topics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[should_panic(expected = "on purpose")]
    async fn a_watch_that_panics_takes_the_controller_with_it() {
        let mut watches = JoinSet::new();
        watches.spawn(async { panic!("on purpose") });
        watches.spawn(std::future::pending()).abort();
        while !watches.is_empty() {
            reap(&mut watches);
            tokio::task::yield_now().await;
        }
    }
}
