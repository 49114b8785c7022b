//! How many connections there may be: `max.connections`, `max.connections.per.ip` with its overrides,
//! `max.connection.creation.rate`, and the descriptors that connections leave to the log.
//! Source: kafka 3.9.1 core/src/main/scala/kafka/network/SocketServer.scala, ConnectionQuotas.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

use crate::model::ConnectionNumber;

#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    pub max_connections: usize,
    pub max_connections_per_ip: usize,
    pub max_connections_per_ip_overrides: HashMap<IpAddr, usize>,
    /// Connections a second.
    pub max_connection_creation_rate: u32,
    /// Descriptors that the process may have (`RLIMIT_NOFILE`).
    pub descriptors: usize,
    /// By name; one that is not here has no limits of its own.
    pub listeners: HashMap<String, ListenerLimits>,
}

/// `listener.name.<name>.max.connections` and `listener.name.<name>.max.connection.creation.rate`.
#[derive(Clone, Copy, Debug)]
pub struct ListenerLimits {
    pub max_connections: usize,
    pub max_connection_creation_rate: u32,
    /// The inter-broker listener, if there are others: clients that use up the broker's limits do not lock brokers out.
    pub is_protected: bool,
}

const NO_LIMITS: ListenerLimits =
    ListenerLimits { max_connections: usize::MAX, max_connection_creation_rate: u32::MAX, is_protected: false };

/// Counts the open connections of all listeners.
#[derive(Debug)]
pub struct ConnectionCounter {
    counts: Mutex<Counts>,
    released: Notify,
}

#[derive(Debug)]
struct Counts {
    limits: ConnectionLimits,
    total: usize,
    accepted: u64,
    by_address: HashMap<IpAddr, usize>,
    by_listener: HashMap<Arc<str>, usize>,
    creations: Creations,
    creations_by_listener: HashMap<Arc<str>, Creations>,
}

/// Connections accepted within the second that began at `second`.
#[derive(Debug, Default)]
struct Creations {
    accepted: u32,
    second: Option<Instant>,
}

impl Creations {
    /// When the next connection may come, if not now.
    fn free_at(&self, now: Instant, rate: u32) -> Option<Instant> {
        let end = self.second? + Duration::from_secs(1);
        (now < end && self.accepted >= rate).then_some(end)
    }

    fn count(&mut self, now: Instant) {
        if self.second.is_none_or(|second| now >= second + Duration::from_secs(1)) {
            *self = Creations { accepted: 0, second: Some(now) };
        }
        self.accepted = self.accepted.saturating_add(1);
    }
}

/// One counted connection; dropping it gives its place back.
#[derive(Debug)]
pub struct Place {
    counter: Arc<ConnectionCounter>,
    listener: Arc<str>,
    address: IpAddr,
    number: ConnectionNumber,
}

impl Place {
    pub fn number(&self) -> ConnectionNumber {
        self.number
    }
}

/// Why a connection is closed before its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// `max.connections.per.ip`
    Address,
    /// The descriptors that are left are those of the log.
    Descriptors { limit: usize },
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejection::Address => f.write_str("its address has reached max.connections.per.ip"),
            Rejection::Descriptors { limit } => {
                write!(f, "of {limit} file descriptors (ulimit -n) those that are free are kept for the log")
            }
        }
    }
}

impl ConnectionCounter {
    pub fn new(limits: ConnectionLimits) -> Arc<ConnectionCounter> {
        let counts = Counts {
            limits,
            total: 0,
            accepted: 0,
            by_address: HashMap::new(),
            by_listener: HashMap::new(),
            creations: Creations::default(),
            creations_by_listener: HashMap::new(),
        };
        Arc::new(ConnectionCounter { counts: Mutex::new(counts), released: Notify::new() })
    }

    /// The limits of connections from now on; those that are open stay.
    pub fn set_limits(&self, limits: ConnectionLimits) {
        self.counts().limits = limits;
        self.released.notify_waiters();
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Counting cannot panic half way.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while as many connections are open as may be, or the creation rate is used up, of the broker or of the
    /// listener: the backlog of the socket holds the rest.
    pub async fn wait_for_room(&self, listener: &str) {
        loop {
            let released = self.released.notified();
            let wait = {
                let counts = self.counts();
                let limits = counts.limits.listeners.get(listener).copied().unwrap_or(NO_LIMITS);
                let now = Instant::now();
                let of_listener = counts.by_listener.get(listener).copied().unwrap_or(0);
                let has_place = of_listener < limits.max_connections
                    && (limits.is_protected || counts.total < counts.limits.max_connections);
                let own = counts.creations_by_listener.get(listener);
                let own = own.and_then(|creations| creations.free_at(now, limits.max_connection_creation_rate));
                let of_all = counts.creations.free_at(now, counts.limits.max_connection_creation_rate);
                match (has_place, own.max(of_all.filter(|_| !limits.is_protected))) {
                    (false, _) => None,
                    (true, None) => return,
                    (true, until) => until,
                }
            };
            match wait {
                None => released.await,
                Some(until) => _ = tokio::time::timeout_at(until, released).await,
            }
        }
    }

    /// Counts a connection, unless its address has too many already or its descriptor, of that number, is one of those
    /// left to the log.
    pub fn place(
        self: &Arc<Self>,
        listener: &Arc<str>,
        address: IpAddr,
        descriptor: usize,
    ) -> Result<Place, Rejection> {
        let address = address.to_canonical();
        let mut counts = self.counts();
        let now = Instant::now();
        counts.creations.count(now);
        counts.creations_by_listener.entry(Arc::clone(listener)).or_default().count(now);
        let is_protected = counts.limits.listeners.get(&**listener).is_some_and(|limits| limits.is_protected);
        if !leaves_descriptors(counts.limits.descriptors, descriptor, counts.total, is_protected) {
            return Err(Rejection::Descriptors { limit: counts.limits.descriptors });
        }
        let limit = counts.limits.max_connections_per_ip_overrides.get(&address);
        let limit = *limit.unwrap_or(&counts.limits.max_connections_per_ip);
        let of_address = counts.by_address.entry(address).or_default();
        if *of_address >= limit {
            if *of_address == 0 {
                counts.by_address.remove(&address);
            }
            return Err(Rejection::Address);
        }
        *of_address += 1;
        counts.total += 1;
        counts.accepted += 1;
        *counts.by_listener.entry(Arc::clone(listener)).or_default() += 1;
        let number = ConnectionNumber(counts.accepted);
        Ok(Place { counter: Arc::clone(self), listener: Arc::clone(listener), address, number })
    }
}

/// Never taken by a connection.
const LAST_DESCRIPTORS: usize = 16;

/// Connections leave a quarter of all descriptors free, those of the inter-broker listener an eighth, for what the log
/// opens. An eighth is theirs however many the log has. The system gives the lowest free number, so that all below the
/// new one are in use.
fn leaves_descriptors(limit: usize, descriptor: usize, connections: usize, is_protected: bool) -> bool {
    let left = if is_protected { limit / 8 } else { limit / 4 };
    descriptor < limit - left.max(LAST_DESCRIPTORS.min(limit))
        || connections < limit / 8 && descriptor < limit.saturating_sub(LAST_DESCRIPTORS)
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counter.counts();
        counts.total -= 1;
        if let Some(of_listener) = counts.by_listener.get_mut(&self.listener) {
            *of_listener -= 1;
        }
        if let Some(of_address) = counts.by_address.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                counts.by_address.remove(&self.address);
            }
        }
        drop(counts);
        self.counter.released.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> ConnectionLimits {
        ConnectionLimits {
            max_connections: 10,
            max_connections_per_ip: usize::MAX,
            descriptors: usize::MAX,
            max_connections_per_ip_overrides: HashMap::new(),
            max_connection_creation_rate: u32::MAX,
            listeners: HashMap::new(),
        }
    }

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    /// Whether a connection would be accepted now.
    async fn has_room(counter: &ConnectionCounter, listener: &str) -> bool {
        tokio::time::timeout(Duration::from_millis(1), counter.wait_for_room(listener)).await.is_ok()
    }

    #[tokio::test]
    async fn an_address_beyond_its_limit_is_refused_and_a_closed_connection_makes_room() {
        let counter = ConnectionCounter::new(ConnectionLimits {
            max_connections_per_ip: 1,
            max_connections_per_ip_overrides: HashMap::from([(IpAddr::from([10, 0, 0, 1]), 2)]),
            ..limits()
        });
        let listener: Arc<str> = "PLAINTEXT".into();
        let other = IpAddr::from([10, 0, 0, 2]);
        let first = counter.place(&listener, other, 9).expect("the first has room");
        assert!(counter.place(&listener, other, 9).is_err());
        drop(first);
        assert!(counter.place(&listener, other, 9).is_ok());
        let two =
            [counter.place(&listener, [10, 0, 0, 1].into(), 9), counter.place(&listener, [10, 0, 0, 1].into(), 9)];
        assert!(two.iter().all(Result::is_ok));
        assert!(counter.place(&listener, [10, 0, 0, 1].into(), 9).is_err());
    }

    #[test]
    fn the_last_quarter_of_the_descriptors_is_left_to_the_log_and_an_eighth_is_never_taken_from_connections() {
        for (descriptor, connections, is_protected, is_let_in) in [
            (191, 150, false, true),
            (192, 150, false, false),
            (192, 150, true, true),
            (224, 150, true, false),
            // The log has nearly all.
            (239, 31, false, true),
            (239, 32, false, false),
            (240, 0, true, false),
        ] {
            let leaves = leaves_descriptors(256, descriptor, connections, is_protected);
            assert_eq!(leaves, is_let_in, "descriptor {descriptor} beside {connections} connections");
        }
        assert!(leaves_descriptors(usize::MAX, 1 << 20, 1 << 20, false) && !leaves_descriptors(8, 1, 0, true));
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_fill_the_broker_wait_and_do_not_lock_brokers_out() {
        let own = |max_connections, is_protected| ListenerLimits { max_connections, is_protected, ..NO_LIMITS };
        let listeners = HashMap::from([("INTERNAL".to_owned(), own(2, true)), ("SMALL".to_owned(), own(1, false))]);
        let counter = ConnectionCounter::new(ConnectionLimits { max_connections: 3, listeners, ..limits() });
        let [internal, external, small] = ["INTERNAL", "EXTERNAL", "SMALL"].map(Arc::<str>::from);
        let _small = counter.place(&small, HERE, 9).expect("there is room");
        assert!(!has_room(&counter, "SMALL").await, "it has one place");
        let first = counter.place(&external, HERE, 9).expect("there is room");
        assert!(has_room(&counter, "EXTERNAL").await);
        let _second = counter.place(&external, HERE, 9).expect("there is room");
        assert!(!has_room(&counter, "EXTERNAL").await);
        assert!(has_room(&counter, "INTERNAL").await);
        let _brokers = [counter.place(&internal, HERE, 9), counter.place(&internal, HERE, 9)];
        assert!(!has_room(&counter, "INTERNAL").await, "its own limit holds");
        drop((first, _second, _brokers));
        assert!(has_room(&counter, "EXTERNAL").await);
    }

    #[tokio::test(start_paused = true)]
    async fn limits_may_change_while_connections_are_open_and_waited_for() {
        let counter = ConnectionCounter::new(ConnectionLimits { max_connections: 1, ..limits() });
        let listener: Arc<str> = "PLAINTEXT".into();
        let _open = counter.place(&listener, HERE, 0).expect("there is room");
        let waiting = tokio::spawn({
            let counter = Arc::clone(&counter);
            async move { counter.wait_for_room("PLAINTEXT").await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        counter.set_limits(ConnectionLimits { max_connections: 2, max_connections_per_ip: 1, ..limits() });
        waiting.await.expect("there is room now");
        assert_eq!(counter.place(&listener, HERE, 0).map(drop), Err(Rejection::Address), "it has its one");
    }

    #[tokio::test(start_paused = true)]
    async fn connections_come_no_faster_than_the_rate() {
        let slow = ListenerLimits { max_connection_creation_rate: 1, ..NO_LIMITS };
        let counter = ConnectionCounter::new(ConnectionLimits {
            max_connection_creation_rate: 2,
            listeners: HashMap::from([("SLOW".to_owned(), slow)]),
            ..limits()
        });
        let slow: Arc<str> = "SLOW".into();
        let _first = counter.place(&slow, HERE, 9);
        assert!(!has_room(&counter, "SLOW").await);
        assert!(has_room(&counter, "OTHER").await);
        let _second = counter.place(&"OTHER".into(), HERE, 9);
        assert!(!has_room(&counter, "OTHER").await, "all of them together have used up the second");
        // The clock of this test is paused: this moves it, and waits for nothing.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(has_room(&counter, "SLOW").await && has_room(&counter, "OTHER").await);
    }
}
