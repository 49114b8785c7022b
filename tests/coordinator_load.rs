//! Promise: whoever is elected to coordinate very many transactional ids reads them in memory and time that are in
//! proportion to them; who asks meanwhile is told at once that it loads, and what was begun goes on.

mod support;

use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

use odradek::codec::writer::Writer;
use odradek::protocol::api_keys::ApiKey;
use odradek::protocol::error_code::ErrorCode;
use odradek::protocol::header::RequestHeader;
use odradek::protocol::message::Message;
use odradek::protocol::messages::describe_transactions::DescribeTransactionsRequest;
use odradek::protocol::messages::produce::ProduceRequest;
use odradek::record::build::BatchBuilder;
use support::client::{Client, outcome, produce_request};
use support::transactional::{until_state, until_transactions_are_coordinated};
use support::{Cluster, Kind, PATIENCE, eventually};

const STATE_TOPIC: &str = "__transaction_state";
const AT_ONCE: usize = 1000;
/// What a broker takes that coordinates nothing, with room for a buffer to read with, and for what its threads leave unused.
const OTHERWISE_KIB: u64 = 80 << 10;
/// Of each id, at the worst moment.
const BYTES_EACH: u64 = 400;
/// Of this many, one is open; of ten times as many, one is being ended.
const OPEN_EVERY: usize = 100;

fn id(number: usize) -> String {
    format!("transactional-id-{number:07}")
}

/// As a coordinator writes them.
fn record(number: usize, now_ms: i64) -> (Vec<u8>, Vec<u8>) {
    let id = id(number);
    let key = [&[0, 0, 0, id.len() as u8], id.as_bytes()].concat();
    let state = match number {
        _ if number % (10 * OPEN_EVERY) == 1 => 2_u8,
        _ if number.is_multiple_of(OPEN_EVERY) => 1,
        _ => 0,
    };
    let partitions = match state {
        0 => (-1_i32).to_be_bytes().to_vec(),
        _ => [&[0, 0, 0, 1, 0, 6], b"orders".as_slice(), &[0, 0, 0, 1, 0, 0, 0, 0]].concat(),
    };
    let start_ms = if state == 0 { -1 } else { now_ms };
    let mut value = vec![0, 0];
    value.extend((number as i64).to_be_bytes());
    value.extend([0, 0]);
    value.extend(900_000_i32.to_be_bytes());
    value.push(state);
    value.extend(partitions);
    value.extend(now_ms.to_be_bytes());
    value.extend(start_ms.to_be_bytes());
    (key, value)
}

/// Appends what no ordinary client may: to an internal topic.
fn append(client: &mut Client, records: impl Iterator<Item = usize>, now_ms: i64) {
    let mut batch = BatchBuilder::new();
    for (key, value) in records.map(|number| record(number, now_ms)) {
        batch.append(now_ms, Some(&key), Some(&value), &[]);
    }
    let request = produce_request(STATE_TOPIC, 0, batch.build(), -1);
    let client_id = Some("__admin_client".into());
    let mut writer = Writer::new();
    let header = RequestHeader { api_key: ApiKey::Produce.code(), api_version: 8, correlation_id: 1, client_id };
    header.write(&mut writer).expect("a header is short");
    request.encode(&mut writer, 8).expect("the version has a place for all");
    let body = writer.into_bytes().expect("no file is in a request");
    let frame = [&(body.len() as i32).to_be_bytes(), &body[..]].concat();
    client.stream.write_all(&frame).expect("the broker reads");
    let told = client.receive::<ProduceRequest>(8, 1).expect("Produce is answered");
    outcome(&told).expect("it is appended");
}

fn described(client: &mut Client, id: &str) -> Result<ErrorCode, String> {
    let request = DescribeTransactionsRequest { transactional_ids: vec![id.to_owned()] };
    let told = client.call(&request, 0).map_err(|error| error.to_string())?;
    Ok(ErrorCode::from_code(told.transaction_states[0].error_code))
}

fn load(ids: usize) {
    let mut cluster = Cluster::start_as(Kind::Odradek, "coordinator-load", "transaction.state.log.num.partitions=1");
    let mut client = cluster.broker.client();
    client.create_topic("orders", 1, &[]);
    until_transactions_are_coordinated(&mut client);
    client.until_led(STATE_TOPIC, 1);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later than that");
    for first in (0..ids).step_by(AT_ONCE) {
        append(&mut client, first..(first + AT_ONCE).min(ids), now.as_millis() as i64);
    }
    cluster.broker.stop();

    let began = Instant::now();
    cluster.broker.process = Some(cluster.broker.spawn(Kind::Odradek, &cluster.scratch));
    let mut client =
        eventually(PATIENCE, "it listens", || Client::connect(cluster.broker.port).map_err(|error| error.to_string()));
    let (mut slowest, mut told_so) = (Duration::ZERO, 0);
    eventually(10 * PATIENCE, "all are loaded", || {
        let asked = Instant::now();
        let code = described(&mut client, &id(ids - 1))?;
        slowest = slowest.max(asked.elapsed());
        told_so += usize::from(code == ErrorCode::CoordinatorLoadInProgress);
        if code == ErrorCode::None { Ok(()) } else { Err(code.to_string()) }
    });
    let took = began.elapsed();
    let (peak, after) = (cluster.broker.process().memory_kib("VmHWM:"), cluster.broker.process().memory_kib("VmRSS:"));
    let bytes_each = (peak << 10) / ids as u64;
    println!("{ids} ids in {took:?}, {peak} KiB at most, {bytes_each} bytes each, {after} KiB then");
    println!("the slowest answer took {slowest:?}");
    println!("{told_so} times told that it loads");
    assert!(peak < OTHERWISE_KIB + ((BYTES_EACH * ids as u64) >> 10), "{peak} KiB");
    let orders = [("orders".to_owned(), vec![0])];
    until_state(&mut client, &id(0), "Ongoing", &orders);
    until_state(&mut client, &id(1), "CompleteCommit", &[]);
    until_state(&mut client, &id(2), "Empty", &[]);
}

#[test]
fn ids_are_loaded_in_proportion() {
    load(200_000);
}

/// The same at size. `tests/run.sh soak` runs it.
#[test]
#[ignore = "takes half a minute without optimization"]
fn a_million_ids_are_loaded() {
    load(1_000_000);
}
