//! Standing for election, and ceasing to be the controller.
use log::{debug, error, info};
use odradek_zookeeper::election::Election;
use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::session::ZooKeeper;
use odradek_zookeeper::znode;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::config::sections::ControllerConfig;
use crate::controller::task::office::Office;
use crate::controller::task::watches::reap;
use crate::controller::task::{FAILED_ELECTION_BACKOFF, Input};
use crate::model::clock::wall_clock_ms;
use crate::model::{BrokerId, ControllerEpoch};

pub(super) struct Task {
    pub(super) zk: ZooKeeper,
    pub(super) broker_id: BrokerId,
    pub(super) config: ControllerConfig,
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) published: watch::Sender<Option<ControllerEpoch>>,
    /// The broker is registered under the current session.
    pub(super) eligible: bool,
    pub(super) office: Option<Office>,
    pub(super) watching_controller: Option<AbortHandle>,
}

impl Task {
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Input>) {
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

    pub(super) fn log_prefix(&self) -> String {
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

    pub(super) fn resign(&mut self, reason: &str) {
        let Some(office) = self.office.take() else { return };
        info!("{} Resigned, epoch {}: {reason}", self.log_prefix(), office.core.epoch());
        self.published.send_replace(None);
    }
}
