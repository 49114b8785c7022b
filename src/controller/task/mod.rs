//! The shell of the controller: takes part in elections, keeps the core supplied with events while in office, and
//! performs its actions.
use std::time::Duration;

use odradek_zookeeper::session::ZooKeeper;
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::sections::ControllerConfig;
use crate::controller::active::Event;
use crate::controller::task::candidacy::Task;
use crate::model::{BrokerId, ControllerEpoch};

mod candidacy;
pub mod channel;
pub mod cluster;
mod office;
pub mod topic_administration;
mod watches;

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
