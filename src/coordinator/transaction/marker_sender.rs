//! Sends the markers of transactions to the leaders of their partitions, until all are written.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use odradek_zookeeper::session::ZooKeeper;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::connection::{Connection, ConnectionSettings};
use crate::client::error::ClientError;
use crate::coordinator::transaction::markers::{MarkerQueues, Told, request};
use crate::coordinator::transaction::requests::Markers;
use crate::coordinator::transaction::task::{MarkersToSend, TransactionCoordinator};
use crate::metadata::cache::MetadataCache;
use crate::model::{BrokerId, TopicPartition};
use crate::protocol::messages::write_txn_markers::{WriteTxnMarkersRequest, WriteTxnMarkersResponse};

/// Before a leader is looked for again, or asked again: nothing tells when it is worth a try, but for news of leaders.
const RETRY_BACKOFF: Duration = Duration::from_millis(100);

/// What a broker was asked, and what came of it, with the connection if it is worth keeping.
struct Asked {
    broker: BrokerId,
    markers: Vec<Markers>,
    answer: Result<WriteTxnMarkersResponse, ClientError>,
    connection: Option<Connection>,
}

pub(crate) struct MarkerSender {
    coordinator: Arc<TransactionCoordinator>,
    metadata: Arc<MetadataCache>,
    zookeeper: ZooKeeper,
    settings: ConnectionSettings,
    listener: String,
    /// Of WriteTxnMarkers, by `inter.broker.protocol.version`.
    version: i16,
}

impl MarkerSender {
    pub(crate) fn new(
        broker: BrokerId,
        coordinator: Arc<TransactionCoordinator>,
        metadata: Arc<MetadataCache>,
        zookeeper: ZooKeeper,
        version: i16,
    ) -> MarkerSender {
        let config = coordinator.settings();
        let settings = ConnectionSettings {
            client_id: format!("broker-{broker}-txn-marker-sender"),
            request_timeout: Duration::from_millis(config.request_timeout_ms),
            resets: true,
            ..ConnectionSettings::default()
        };
        let listener = config.inter_broker_listener_name.clone();
        MarkerSender { coordinator, metadata, zookeeper, settings, listener, version }
    }

    /// Runs until the broker shuts down.
    pub(crate) async fn run(
        self,
        mut to_send: mpsc::UnboundedReceiver<MarkersToSend>,
        mut shutdown: watch::Receiver<bool>,
    ) {
        let mut queues = MarkerQueues::default();
        let mut asking: JoinSet<Asked> = JoinSet::new();
        // ZooKeeper may be away for long, which holds up nobody else.
        let mut looking = JoinSet::new();
        let mut connections: HashMap<BrokerId, Connection> = HashMap::new();
        let mut changes = self.metadata.changes();
        // Set while something is parked, and moved by nothing that comes meanwhile.
        let mut retry_at = None;
        loop {
            match queues.has_parked() {
                true => retry_at = retry_at.or_else(|| Some(Instant::now() + RETRY_BACKOFF)),
                false => retry_at = None,
            }
            for (broker, markers) in queues.due() {
                let connection = connections.remove(&broker);
                asking.spawn(self.ask(broker, markers, connection));
            }
            tokio::select! {
                next = to_send.recv() => {
                    let Some(next) = next else { return };
                    let image = self.metadata.image();
                    let more = std::iter::from_fn(|| to_send.try_recv().ok());
                    for one in std::iter::once(next).chain(more) {
                        match one {
                            MarkersToSend::Send(markers) => queues.send(markers, &image),
                            MarkersToSend::Stop(transactional_id) => queues.stop(&transactional_id),
                        }
                    }
                }
                Some(done) = asking.join_next() => match done {
                    Ok(Asked { broker, markers, answer, connection }) => {
                        if let Err(why) = &answer {
                            log::warn!("markers of {} transaction(s) could not be sent to broker {broker}: {why}", markers.len());
                        }
                        connections.extend(connection.map(|connection| (broker, connection)));
                        self.tell(queues.answered(broker, markers, answer.as_ref().ok()));
                    }
                    Err(ended) => {
                        // What it was asked for would be lost.
                        if ended.is_panic() { std::panic::resume_unwind(ended.into_panic()) }
                    }
                },
                () = tokio::time::sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => {
                    retry_at = None;
                    let image = self.metadata.image();
                    queues.route_parked(&image);
                    if looking.is_empty() {
                        let topics = queues.unknown_topics();
                        if !topics.is_empty() {
                            looking.spawn(partitions_of(self.zookeeper.clone(), topics));
                        }
                    } else {
                        // It is slow, or away; the leader may know by now.
                        queues.route_denied(&image);
                    }
                }
                Some(found) = looking.join_next() => {
                    if let Ok(Some((asked, there))) = found {
                        let is_gone = |p: &TopicPartition| asked.contains(&p.topic) && !there.contains(p);
                        self.tell(queues.gone(is_gone));
                    }
                    queues.route_denied(&self.metadata.image());
                }
                changed = changes.changed(), if queues.has_parked() => {
                    if changed.is_err() { return }
                    queues.route_parked(&self.metadata.image());
                }
                () = stopped(&mut shutdown) => break,
            }
        }
        if queues.len() > 0 {
            log::info!("{} transactions are left to whoever coordinates them next, to be ended", queues.len());
        }
    }

    fn tell(&self, told: Vec<Told>) {
        for Told { markers, fate } in told {
            let partitions: Vec<TopicPartition> = markers.partitions.into_iter().collect();
            let Markers { transactional_id, producer, coordinator_epoch, .. } = markers;
            self.coordinator.markers_answered(&transactional_id, producer, coordinator_epoch, &partitions, fate);
        }
    }

    fn ask(
        &self,
        broker: BrokerId,
        markers: Vec<Markers>,
        connection: Option<Connection>,
    ) -> impl Future<Output = Asked> + Send + 'static {
        let address = self.metadata.image().endpoint(broker, &self.listener).map(|endpoint| endpoint.address());
        let (settings, version) = (self.settings.clone(), self.version);
        async move {
            let request = request(&markers);
            match send(broker, address, connection, &settings, &request, version).await {
                Ok((answer, connection)) => Asked { broker, markers, answer: Ok(answer), connection: Some(connection) },
                Err(why) => Asked { broker, markers, answer: Err(why), connection: None },
            }
        }
    }
}

/// All partitions of these topics as ZooKeeper has them now: the metadata may not have been told of all yet, and no server of it
/// that is behind may say that they are gone. A topic that is being deleted has none any more.
async fn partitions_of(
    zookeeper: ZooKeeper,
    topics: BTreeSet<Arc<str>>,
) -> Option<(BTreeSet<Arc<str>>, BTreeSet<TopicPartition>)> {
    let mut partitions = BTreeSet::new();
    if let Err(why) = zookeeper.sync().await {
        log::warn!("whether topics are gone, and need no more markers, is not known: {why}");
        return None;
    }
    for topic in &topics {
        let there = match zookeeper.is_marked_for_deletion(topic).await {
            Ok(true) => Ok(None),
            Ok(false) => zookeeper.topic(topic).await,
            Err(why) => Err(why),
        };
        match there {
            Ok(None) => {}
            Ok(Some(there)) => {
                let numbers = there.value.partitions.into_keys();
                partitions.extend(numbers.map(|number| TopicPartition { topic: Arc::clone(topic), partition: number }));
            }
            Err(why) => {
                log::warn!("whether {topic} is gone, and needs no more markers, is not known: {why}");
                return None;
            }
        }
    }
    Some((topics, partitions))
}

async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // Without a sender there is no broker either.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

async fn send(
    broker: BrokerId,
    address: Option<String>,
    connection: Option<Connection>,
    settings: &ConnectionSettings,
    request: &WriteTxnMarkersRequest,
    version: i16,
) -> Result<(WriteTxnMarkersResponse, Connection), ClientError> {
    let Some(address) = address else {
        let reason = "it has no listener that is known".to_owned();
        return Err(ClientError::Connect { address: format!("broker {broker}"), reason });
    };
    let connection = match connection {
        Some(open) if open.address() == address && !open.is_closed() => open,
        _ => Connection::connect(&address, settings).await?,
    };
    let answer = connection.send_at(request, version).await?;
    Ok((answer, connection))
}
