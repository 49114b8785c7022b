//! The partitions that this broker hosts: who leads them, which replicas are in sync, what is committed, who waits.
//!
//! Invariants: a `Partition` is the only owner of its leadership and ISR; the high watermark of a leader only moves
//! forward; every control request is fenced by broker epoch and controller epoch before it changes anything, and every
//! partition by its leader epoch. Locks are taken in the order partition, then log, and none is held across an await.
//! Deliberately knows nothing of api versions, of clients and of ZooKeeper.

pub mod io;
pub mod leader;
pub mod waiters;
