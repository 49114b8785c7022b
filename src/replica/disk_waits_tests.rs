//! Who waits for a disk, and who does not.

use std::sync::{Arc, Mutex};

use rustix::io::Errno;
use tokio::time::Instant;

use crate::log::faults::{self, Op};
use crate::replica::tests::{Fixture, TERMS, records};

/// The network threads of these tests are those of their runtimes; I/O threads have names.
fn is_io_thread() -> bool {
    std::thread::current().name().is_some_and(|name| name.starts_with("io-"))
}

#[tokio::test]
async fn a_reader_of_what_is_not_in_memory_waits_for_an_io_thread() {
    let fixture = Fixture::new();
    fixture.publish(&[("rolling", 0)]).await;
    assert_eq!(fixture.decide("rolling", 0, 1, 0, &[1]).await, Ok(()));
    for _ in 0..200 {
        fixture.replicas.append("rolling", 0, records(20), TERMS, 0).expect("this broker leads");
    }
    let log = fixture.replicas.partition("rolling", 0).expect("hosted").log().expect("online");
    assert!(log.segment_count() > 10);
    // Nobody has the files open.
    for _ in 0..2 {
        log.close_idle_files(0).expect("flushed");
    }
    let waits = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&waits);
    // As if nothing were in memory.
    let _cold = faults::below(fixture.dir.path(), move |op, _| {
        if !matches!(op, Op::Open | Op::Read | Op::Stat) {
            return Ok(());
        }
        if !faults::may_wait() {
            return Err(Errno::AGAIN.into());
        }
        seen.lock().expect("unpoisoned").push(is_io_thread());
        Ok(())
    });
    for from in [0, 1000, 2500, 3999] {
        let query = fixture.consumer("rolling", from, 1);
        let outcomes = fixture.replicas.fetch(&query, Instant::now(), std::time::Instant::now()).await;
        assert!(outcomes[0].as_ref().expect("it may be read").bytes() > 0);
    }
    let waits = waits.lock().expect("unpoisoned");
    assert!(waits.len() > 4 && waits.iter().all(|is_io_thread| *is_io_thread), "{waits:?}");
}
