//! Standing for election, and ceasing to be the controller. All of it belongs to one session with ZooKeeper, the one
//! that this broker is registered under: when that ends, whatever is being done is dropped, and the office with it.
use std::sync::Arc;
use std::time::Duration;

use log::{debug, info, warn};
use odradek_zookeeper::election::Election;
use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::session::ZooKeeper;
use odradek_zookeeper::znode;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::config::sections::ControllerConfig;
use crate::controller::active::Event;
use crate::controller::counters::{ControllerCounters, count};
use crate::controller::task::Input;
use crate::controller::task::office::Office;
use crate::controller::task::topic_ids::KnownTopics;
use crate::controller::task::watches::reap;
use crate::model::clock::wall_clock_ms;
use crate::model::{BrokerId, ControllerEpoch};

/// How long to wait before what failed for the sake of a znode is tried again: nothing tells when it is worth a try.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// After a controller has taken office, leaders are given as long to settle before they are moved.
pub(super) const FIRST_REBALANCE_DELAY: Duration = Duration::from_secs(5);
/// It doubles with each try, up to this.
const RETRY_INTERVAL_MAX: Duration = Duration::from_secs(30);

pub(super) struct Task {
    pub(super) broker_id: BrokerId,
    pub(super) config: ControllerConfig,
    pub(super) known: KnownTopics,
    pub(super) counters: Arc<ControllerCounters>,
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) published: watch::Sender<Option<ControllerEpoch>>,
    /// Bound to the session that the broker is registered under; `None` while it may not be elected.
    pub(super) session: Option<ZooKeeper>,
    pub(super) office: Option<Office>,
    pub(super) watching_controller: Option<AbortHandle>,
    /// Standing for election failed, or the office was given up for an error, and that has not been tried again.
    pub(super) has_failed: bool,
    /// When it is seen next whether leaders are where they are preferred. `None` out of office, or if they may be anywhere.
    pub(super) rebalance_at: Option<Instant>,
    /// The latest epoch that this broker has held, or found in the state of a partition.
    pub(super) epoch_known: ControllerEpoch,
}

impl Task {
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Input>) {
        let mut retry_at: Option<Instant> = None;
        let mut pause = RETRY_INTERVAL;
        loop {
            let session = self.session.clone();
            let ended = async {
                match &session {
                    Some(session) => session.ended().await,
                    None => std::future::pending().await,
                }
            };
            tokio::pin!(ended);
            let is_unfinished =
                self.has_failed || self.office.as_ref().is_some_and(|office| office.core.is_unfinished());
            let at = match is_unfinished {
                true => *retry_at.get_or_insert_with(|| Instant::now() + pause),
                false => {
                    (retry_at, pause) = (None, RETRY_INTERVAL);
                    Instant::now()
                }
            };
            let rebalance_at = self.rebalance_at;
            let input = tokio::select! {
                biased;
                () = &mut ended => {
                    self.session_ended();
                    continue;
                }
                () = sleep_until(at), if is_unfinished => {
                    (retry_at, pause) = (None, RETRY_INTERVAL_MAX.min(pause * 2));
                    None
                }
                () = sleep_until(rebalance_at.unwrap_or(at)), if rebalance_at.is_some() => Some(Input::RebalanceDue),
                input = queue.recv() => match input {
                    Some(input) => Some(input),
                    None => return,
                },
            };
            if let Some(office) = &mut self.office {
                reap(&mut office.watches);
            }
            let done = match input {
                Some(Input::Shutdown(done)) => Some(done),
                Some(input) => {
                    tokio::select! {
                        biased;
                        () = &mut ended => self.session_ended(),
                        () = self.handle(input) => {}
                    }
                    continue;
                }
                None => {
                    tokio::select! {
                        biased;
                        () = &mut ended => self.session_ended(),
                        () = self.retry() => {}
                    }
                    continue;
                }
            };
            tokio::select! {
                biased;
                () = &mut ended => self.session_ended(),
                () = self.give_up("the broker shuts down") => {}
            }
            if let Some(watching) = self.watching_controller.take() {
                watching.abort();
            }
            if let Some(done) = done {
                let _ = done.send(());
            }
            return;
        }
    }

    async fn handle(&mut self, input: Input) {
        let handled = match input {
            Input::Registered(session) => {
                self.has_failed = false;
                self.session = Some(session);
                self.watch_controller();
                self.stand_for_election().await
            }
            // This broker has just given up for an error, which removed the znode: at once it would only fail again.
            Input::ControllerChanged if self.has_failed => return,
            Input::ControllerChanged => self.controller_changed().await,
            Input::BrokersChanged { epoch, children } if self.holds(epoch) => self.brokers_changed(children).await,
            Input::BrokerChanged { epoch, watch, broker, data } if self.holds(epoch) => {
                self.broker_changed(watch, broker, data).await
            }
            Input::TopicChanged { epoch, watch, topic } if self.holds(epoch) => self.topic_changed(watch, topic).await,
            Input::LogDirEvents { epoch, children } if self.holds(epoch) => self.log_dir_events(children).await,
            Input::IsrChanges { epoch, children } if self.holds(epoch) => self.isr_changes(children).await,
            Input::DeletionsRequested { epoch } if self.holds(epoch) => self.deletions_requested().await,
            Input::PreferredElectionRequested { epoch } if self.holds(epoch) => {
                self.preferred_election_requested().await
            }
            Input::ReassignmentsRequested { epoch } if self.holds(epoch) => self.reassignments_requested().await,
            Input::RebalanceDue => {
                let interval = Duration::from_secs(self.config.leader_imbalance_check_interval_seconds);
                // One that no clock can count to never ends.
                self.rebalance_at = Instant::now().checked_add(interval);
                let imbalance_percentage = self.config.leader_imbalance_per_broker_percentage;
                self.process(Event::RebalanceDue { imbalance_percentage }).await
            }
            Input::Event { epoch, event } if self.holds(epoch) => self.process(event).await,
            Input::Request { epoch, request, answer } if self.holds(epoch) => self.requested(request, answer).await,
            Input::Configured(config) => self.configured(*config).await,
            // Left over from an office that has been given up.
            Input::BrokersChanged { .. }
            | Input::BrokerChanged { .. }
            | Input::TopicChanged { .. }
            | Input::LogDirEvents { .. }
            | Input::IsrChanges { .. }
            | Input::DeletionsRequested { .. }
            | Input::PreferredElectionRequested { .. }
            | Input::ReassignmentsRequested { .. }
            | Input::Event { .. }
            | Input::Request { .. } => Ok(()),
            Input::Shutdown(_) => unreachable!("the end of the task is dealt with where it ends"),
        };
        self.settled(handled).await;
    }

    async fn configured(&mut self, config: ControllerConfig) -> Result<(), ZkError> {
        let allows_more = config.unclean_leader_election_enable && !self.config.unclean_leader_election_enable;
        if let Some(office) = &mut self.office {
            office.zookeeper.configure(config.clone());
        }
        self.config = config;
        match allows_more {
            true => self.process(Event::UncleanElectionsAllowed { topic: None }).await,
            false => Ok(()),
        }
    }

    async fn retry(&mut self) {
        self.has_failed = false;
        let handled = match self.office.is_some() {
            true => self.process(Event::Retry).await,
            false => self.controller_changed().await,
        };
        self.settled(handled).await;
    }

    fn holds(&self, epoch: ControllerEpoch) -> bool {
        self.office.as_ref().is_some_and(|office| office.core.epoch() == epoch)
    }

    pub(super) fn log_prefix(&self) -> String {
        format!("[Controller id={}]", self.broker_id)
    }

    fn session_ended(&mut self) {
        self.session = None;
        self.has_failed = false;
        // It is bound to the session and has ended too.
        self.watching_controller = None;
        self.resign("the ZooKeeper session ended");
    }

    async fn settled(&mut self, handled: Result<(), ZkError>) {
        match handled {
            Ok(()) => {}
            Err(ZkError::ControllerMoved { .. }) => {
                info!("{} Controller moved to another broker", self.log_prefix());
                self.give_up("another broker became the controller").await;
                // Whoever it is may be gone by now.
                self.poke();
            }
            Err(ZkError::SessionExpired | ZkError::Closed) => self.session_ended(),
            Err(error) => {
                self.has_failed = true;
                count(&self.counters.zookeeper_failures);
                if let Some(session) = &self.session {
                    let prefix = self.log_prefix();
                    let what = format!("{prefix} cannot be the controller, trying again and leaving it to others");
                    session.complain(znode::controller::PATH, &what, &error);
                }
                self.give_up("of an error").await;
            }
        }
    }

    /// Looks at `/controller` again. The queue may be full of what this task itself is to work off.
    fn poke(&self) {
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let _ = inputs.send(Input::ControllerChanged).await;
        });
    }

    fn watch_controller(&mut self) {
        let Some(session) = &self.session else { return };
        let (mut watch, inputs) = (session.watch_data(znode::controller::PATH), self.inputs.clone());
        let watching = tokio::spawn(async move {
            while watch.next().await.is_ok() {
                if inputs.send(Input::ControllerChanged).await.is_err() {
                    return;
                }
            }
        });
        if let Some(former) = self.watching_controller.replace(watching.abort_handle()) {
            former.abort();
        }
    }

    async fn controller_changed(&mut self) -> Result<(), ZkError> {
        let Some(session) = self.session.clone() else { return Ok(()) };
        let Some((data, stat)) = session.get(znode::controller::PATH).await? else {
            self.resign("/controller is gone");
            return self.stand_for_election().await;
        };
        let is_own = session.is_own_session(stat.ephemeral_owner).await?;
        match znode::controller::decode(&data) {
            Ok(current) => {
                session.mended(znode::controller::PATH);
                debug!("{} Broker {} has been elected as the controller", self.log_prefix(), current.broker_id);
            }
            // Who made it is the controller, whatever somebody else has written there since.
            Err(error) => {
                session.complain(znode::controller::PATH, "nobody can tell who the controller is", &error.into())
            }
        }
        match (is_own, self.office.is_some()) {
            (false, true) => self.resign("/controller belongs to another broker"),
            (true, false) => return self.stand_for_election().await,
            (true, true) | (false, false) => {}
        }
        Ok(())
    }

    async fn stand_for_election(&mut self) -> Result<(), ZkError> {
        let Some(session) = self.session.clone() else { return Ok(()) };
        if self.office.is_some() {
            return Ok(());
        }
        let prefix = self.log_prefix();
        if let Some(stat) = session.exists(znode::controller::PATH).await? {
            if !session.is_own_session(stat.ephemeral_owner).await? {
                return Ok(());
            }
            // Won, but never taken, or given up since, perhaps with a session that the servers still have: nobody can be
            // elected as long as it stands.
            warn!(
                "{prefix} {} was left behind by this broker's session {:#x}; removing it",
                znode::controller::PATH,
                stat.ephemeral_owner
            );
            // Of the time in which it stood: the election of a successor raises it, whose znode is not to be removed.
            let epoch = session.controller_epoch().await?;
            let stands = session.exists(znode::controller::PATH).await?;
            if stands.is_some_and(|standing| standing.czxid == stat.czxid) {
                session.resign_controller(epoch.map_or(0, |epoch| epoch.version)).await?;
            }
        }
        match session.elect_controller(self.broker_id.0, wall_clock_ms(), self.epoch_known.0).await? {
            Election::Lost => debug!("{prefix} another broker won the election"),
            Election::Won { epoch, epoch_zk_version } => {
                let epoch = ControllerEpoch(epoch);
                count(&self.counters.offices_won);
                info!(
                    "{prefix} {} successfully elected as the controller. Epoch incremented to {epoch} and epoch zk version is now {epoch_zk_version}",
                    self.broker_id
                );
                self.epoch_known = epoch;
                if let Err(error) = self.take_office(&session, epoch, epoch_zk_version).await {
                    if self.office.is_none() && !matches!(error, ZkError::SessionExpired | ZkError::Closed) {
                        // `give_up` would not know what to give back.
                        session.resign_controller(epoch_zk_version).await?;
                    }
                    return Err(error);
                }
                session.mended(znode::controller::PATH);
            }
        }
        Ok(())
    }

    /// No longer acts as controller, from this moment on.
    pub(super) fn resign(&mut self, reason: &str) {
        // First: whoever asks is told so at once.
        let was_active = self.published.send_replace(None);
        let office = self.office.take();
        self.rebalance_at = None;
        let epoch = was_active.or(office.as_ref().map(|office| office.core.epoch()));
        if let Some(epoch) = epoch {
            count(&self.counters.offices_left);
            info!("{} Resigned, epoch {epoch}: {reason}", self.log_prefix());
        }
    }

    /// Resigns, and removes `/controller` so that another broker is elected.
    async fn give_up(&mut self, reason: &str) {
        let version = self.office.as_ref().map(|office| office.zookeeper.epoch_zk_version());
        self.resign(reason);
        if let (Some(session), Some(version)) = (&self.session, version)
            && let Err(error) = session.resign_controller(version).await
        {
            debug!("{} /controller is left as it is: {error}", self.log_prefix());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Out of office, and without a session.
    fn task(config: ControllerConfig) -> Task {
        Task {
            broker_id: BrokerId(1),
            config,
            known: KnownTopics::default(),
            counters: Arc::default(),
            inputs: mpsc::channel(1).0,
            published: watch::channel(None).0,
            session: None,
            office: None,
            watching_controller: None,
            has_failed: false,
            rebalance_at: None,
            epoch_known: ControllerEpoch(0),
        }
    }

    #[tokio::test]
    async fn leaders_may_be_looked_at_so_rarely_that_it_never_happens() {
        let never = i64::MAX.unsigned_abs();
        let mut task =
            task(ControllerConfig { leader_imbalance_check_interval_seconds: never, ..ControllerConfig::default() });
        task.handle(Input::RebalanceDue).await;
        assert_eq!(task.rebalance_at, None);
    }

    /// Nothing else would tell it when to try again.
    #[tokio::test]
    async fn what_has_failed_is_tried_again_whatever_is_heard_meanwhile() {
        let mut task = task(ControllerConfig::default());
        task.has_failed = true;
        task.handle(Input::Configured(Box::default())).await;
        task.handle(Input::BrokersChanged { epoch: ControllerEpoch(3), children: Vec::new() }).await;
        assert!(task.has_failed);
        task.retry().await;
        assert!(!task.has_failed);
    }
}
