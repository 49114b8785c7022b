//! How many connections there may be: `max.connections`, `max.connections.per.ip` with its overrides, and
//! `max.connection.creation.rate`. Source: kafka 3.9.1 core/src/main/scala/kafka/network/SocketServer.scala, ConnectionQuotas.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    pub max_connections: usize,
    pub max_connections_per_ip: usize,
    pub max_connections_per_ip_overrides: HashMap<IpAddr, usize>,
    /// Connections a second.
    pub max_connection_creation_rate: u32,
}

/// Counts the open connections of all listeners.
#[derive(Debug)]
pub struct ConnectionCounter {
    limits: ConnectionLimits,
    counts: Mutex<Counts>,
    released: Notify,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
    /// Accepted within the second that began at `second`.
    accepted: u32,
    second: Option<Instant>,
}

/// One counted connection; dropping it gives its place back.
#[derive(Debug)]
pub struct Place {
    counter: Arc<ConnectionCounter>,
    address: IpAddr,
}

impl ConnectionCounter {
    pub fn new(limits: ConnectionLimits) -> Arc<ConnectionCounter> {
        Arc::new(ConnectionCounter { limits, counts: Mutex::default(), released: Notify::new() })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Counting cannot panic half way.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while `max.connections` are open or the creation rate is used up: the backlog of the socket holds the rest.
    pub async fn wait_for_room(&self) {
        loop {
            let released = self.released.notified();
            let wait = {
                let mut counts = self.counts();
                let now = Instant::now();
                match counts.second {
                    Some(second) if now.duration_since(second) < Duration::from_secs(1) => {}
                    _ => {
                        counts.second = Some(now);
                        counts.accepted = 0;
                    }
                }
                if counts.total >= self.limits.max_connections {
                    None
                } else if counts.accepted >= self.limits.max_connection_creation_rate {
                    counts.second.map(|second| second + Duration::from_secs(1))
                } else {
                    return;
                }
            };
            match wait {
                None => released.await,
                Some(until) => tokio::time::sleep_until(until).await,
            }
        }
    }

    /// Counts a connection, unless its address has too many already.
    pub fn place(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = address.to_canonical();
        let mut counts = self.counts();
        counts.accepted = counts.accepted.saturating_add(1);
        let limit = self.limits.max_connections_per_ip_overrides.get(&address);
        let limit = *limit.unwrap_or(&self.limits.max_connections_per_ip);
        let of_address = counts.by_address.entry(address).or_default();
        if *of_address >= limit {
            if *of_address == 0 {
                counts.by_address.remove(&address);
            }
            return None;
        }
        *of_address += 1;
        counts.total += 1;
        Some(Place { counter: Arc::clone(self), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counter.counts();
        counts.total -= 1;
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

    #[tokio::test]
    async fn an_address_beyond_its_limit_is_refused_and_a_closed_connection_makes_room() {
        let counter = ConnectionCounter::new(ConnectionLimits {
            max_connections: 10,
            max_connections_per_ip: 1,
            max_connections_per_ip_overrides: HashMap::from([(IpAddr::from([10, 0, 0, 1]), 2)]),
            max_connection_creation_rate: u32::MAX,
        });
        let other = IpAddr::from([10, 0, 0, 2]);
        let first = counter.place(other).expect("the first has room");
        assert!(counter.place(other).is_none());
        drop(first);
        assert!(counter.place(other).is_some());
        let _two = [counter.place([10, 0, 0, 1].into()).unwrap(), counter.place([10, 0, 0, 1].into()).unwrap()];
        assert!(counter.place([10, 0, 0, 1].into()).is_none());
    }
}
