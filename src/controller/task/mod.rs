//! The shell of the controller: takes part in elections, keeps the core supplied with events while in office, and
//! performs its actions.
use std::sync::Arc;

use odradek_zookeeper::session::{Stat, ZooKeeper};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::Id as WatchId;

use crate::config::sections::ControllerConfig;
use crate::controller::active::{Answer, Event, Request, TopicRead};
use crate::controller::counters::ControllerCounters;
use crate::controller::task::candidacy::Task;
use crate::controller::task::topic_ids::KnownTopics;
use crate::model::{BrokerId, ControllerEpoch};

mod candidacy;
pub mod channel;
pub mod cluster;
pub(crate) mod leaderships;
mod office;
pub mod topic_administration;
pub mod topic_ids;
mod watches;

/// Events that wait for the controller; whoever brings one beyond that waits too.
const EVENTS_QUEUED_MAX: usize = 1000;
/// How the rest of the broker reaches its controller, which is in office or not.
#[derive(Clone, Debug)]
pub struct Controller {
    inputs: mpsc::Sender<Input>,
    epoch: watch::Receiver<Option<ControllerEpoch>>,
}

#[derive(Debug)]
enum Input {
    /// This broker is registered (again) under the session that the handle is bound to, and may be elected.
    Registered(ZooKeeper),
    /// `/controller` was created, changed or deleted.
    ControllerChanged,
    /// Registrations appeared under `/brokers/ids` or vanished.
    BrokersChanged {
        epoch: ControllerEpoch,
        children: Vec<String>,
    },
    /// One registration was written; `None` once it is gone.
    BrokerChanged {
        epoch: ControllerEpoch,
        watch: WatchId,
        broker: BrokerId,
        data: Option<(Vec<u8>, Stat)>,
    },
    /// One topic was written.
    TopicChanged {
        epoch: ControllerEpoch,
        watch: WatchId,
        topic: TopicRead,
    },
    LogDirEvents {
        epoch: ControllerEpoch,
        children: Vec<String>,
    },
    IsrChanges {
        epoch: ControllerEpoch,
        children: Vec<String>,
    },
    /// `/admin/delete_topics` has changed.
    DeletionsRequested {
        epoch: ControllerEpoch,
    },
    /// There is something in `/admin/preferred_replica_election`.
    PreferredElectionRequested {
        epoch: ControllerEpoch,
    },
    /// There is something in `/admin/reassign_partitions`.
    ReassignmentsRequested {
        epoch: ControllerEpoch,
    },
    Event {
        epoch: ControllerEpoch,
        event: Event,
    },
    /// Dropped unanswered when the office is given up.
    Request {
        epoch: ControllerEpoch,
        request: Request,
        answer: oneshot::Sender<Answer>,
    },
    /// Time to see where leaders are.
    RebalanceDue,
    Configured(Box<ControllerConfig>),
    Shutdown(oneshot::Sender<()>),
}

impl Controller {
    /// The controller and its task, which stands for election once the broker is registered.
    pub fn new(
        broker_id: BrokerId,
        config: ControllerConfig,
        known: KnownTopics,
        counters: Arc<ControllerCounters>,
    ) -> (Controller, impl Future<Output = ()> + Send) {
        let (inputs, queue) = mpsc::channel(EVENTS_QUEUED_MAX);
        let (published, epoch) = watch::channel(None);
        let task = Task {
            broker_id,
            config,
            known,
            counters,
            inputs: inputs.clone(),
            published,
            session: None,
            office: None,
            watching_controller: None,
            has_failed: false,
            rebalance_at: None,
            epoch_known: ControllerEpoch(0),
        };
        (Controller { inputs, epoch }, task.run(queue))
    }

    /// Whether this broker is the controller, as far as it knows.
    pub fn is_active(&self) -> bool {
        self.epoch.borrow().is_some()
    }

    /// The broker's registration is in ZooKeeper, under the session that the handle is bound to. The office that this
    /// broker may win belongs to the same session and ends with it.
    pub async fn registered(&self, session: ZooKeeper) {
        // A task that is gone has been shut down.
        let _ = self.inputs.send(Input::Registered(session)).await;
    }

    /// The settings in force from now on.
    pub async fn configure(&self, config: ControllerConfig) {
        // A task that is gone has been shut down.
        let _ = self.inputs.send(Input::Configured(Box::new(config))).await;
    }

    /// The settings of the topic say that a replica outside the ISR may lead it, where no other can.
    pub async fn unclean_elections_allowed(&self, topic: &str) {
        let Some(epoch) = *self.epoch.borrow() else { return };
        let event = Event::UncleanElectionsAllowed { topic: Some(topic.into()) };
        let _ = self.inputs.send(Input::Event { epoch, event }).await;
    }

    /// Asks the controller; `None` if this broker is not the controller, or ceases to be before it has answered.
    pub async fn ask(&self, request: Request) -> Option<Answer> {
        let epoch = (*self.epoch.borrow())?;
        let (answer, answered) = oneshot::channel();
        self.inputs.send(Input::Request { epoch, request, answer }).await.ok()?;
        answered.await.ok()
    }

    /// Returns when this broker does not act as controller, which is at once unless its session has only just ended.
    pub async fn resigned(&self) {
        // A task that is gone has resigned.
        let _ = self.epoch.clone().wait_for(Option::is_none).await;
    }

    /// Gives up the office, if it is held, removes its znode, and ends the task.
    pub async fn shutdown(&self) {
        let (done, stopped) = oneshot::channel();
        if self.inputs.send(Input::Shutdown(done)).await.is_ok() {
            let _ = stopped.await;
        }
    }
}
