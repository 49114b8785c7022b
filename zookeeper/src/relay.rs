//! What makes servers of 3.4 usable: zookeeper-client sends create2 in every transaction, which only 3.5 knows. A relay
//! on the loopback interface passes everything on, but in transactions it puts create for each create2. The two have
//! the same fields; the answer to create lacks the stat of the new znode, which the client understands and nothing here
//! asks for. So transactions, and the fences in them, are the same on every server.
//! Servers of 3.4 speak no TLS, so there is only plain text to pass on, and whoever connects to the relay reaches no
//! more than at the server itself.
use log::debug;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

// Source: ZooKeeper 3.4.14 and 3.8.4 ZooDefs.java, OpCode.
const CREATE: i32 = 1;
const DELETE: i32 = 2;
const SET_DATA: i32 = 5;
const CHECK: i32 = 13;
const MULTI: i32 = 14;
const CREATE2: i32 = 15;

/// Larger than any server's jute.maxbuffer; our own client sends nothing like it.
const FRAME_BYTES_MAX: usize = 64 << 20;

/// Between two attempts to accept a connection.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Dropping it ends every connection through it.
#[derive(Debug)]
pub(crate) struct Relay {
    /// One for each server, as `host:port`, separated by commas.
    pub address: String,
    listeners: Vec<AbortHandle>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.listeners.iter().for_each(AbortHandle::abort);
    }
}

impl Relay {
    pub async fn start(servers: &[(String, u16)]) -> io::Result<Relay> {
        let mut relay = Relay { address: String::new(), listeners: Vec::new() };
        for (host, port) in servers {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            if !relay.address.is_empty() {
                relay.address.push(',');
            }
            relay.address.push_str(&listener.local_addr()?.to_string());
            relay.listeners.push(tokio::spawn(accept(listener, host.clone(), *port)).abort_handle());
        }
        Ok(relay)
    }
}

async fn accept(listener: TcpListener, host: String, port: u16) {
    let mut connections = JoinSet::new();
    loop {
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            // Out of descriptors, as a rule. Others may free some before the session expires.
            Err(error) => {
                debug!("the relay to ZooKeeper at {host}:{port} cannot accept a connection: {error}");
                sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let host = host.clone();
        connections.spawn(async move {
            let passed = async {
                let server = TcpStream::connect((host.as_str(), port)).await?;
                client.set_nodelay(true)?;
                server.set_nodelay(true)?;
                pass(client, server).await
            };
            if let Err(error) = passed.await {
                debug!("the connection to ZooKeeper at {host}:{port} ended: {error}");
            }
        });
    }
}

async fn pass(client: TcpStream, server: TcpStream) -> io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    // The end of either direction is the end of the connection.
    tokio::select! {
        passed = pass_requests(&mut from_client, &mut to_server) => passed,
        passed = tokio::io::copy(&mut from_server, &mut to_client) => passed.map(|_| ()),
    }
}

async fn pass_requests(client: &mut OwnedReadHalf, server: &mut OwnedWriteHalf) -> io::Result<()> {
    let mut frame = Vec::new();
    // The first frame has no header of a request: it opens the session.
    let mut is_open = false;
    loop {
        let mut length = [0; 4];
        match client.read_exact(&mut length).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        };
        let bytes = usize::try_from(i32::from_be_bytes(length)).ok().filter(|bytes| *bytes <= FRAME_BYTES_MAX);
        let bytes = bytes.ok_or_else(|| io::Error::other("a frame has no valid length"))?;
        frame.clear();
        frame.extend_from_slice(&length);
        // Grows with what arrives.
        let read = (&mut *client).take(bytes as u64).read_to_end(&mut frame).await?;
        if read < bytes {
            return Ok(());
        }
        if is_open && int(&frame, 8) == Some(MULTI) {
            // One that cannot be read passes as it is: the server says what is wrong with it.
            let _ = create_for_create2(&mut frame[12..]);
        }
        is_open = true;
        server.write_all(&frame).await?;
    }
}

fn int(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// The position behind a string or buffer with its length before it; -1 is null.
fn behind(bytes: &[u8], at: usize) -> Option<usize> {
    let length = usize::try_from(int(bytes, at)?.max(0)).ok()?;
    at.checked_add(4)?.checked_add(length).filter(|end| *end <= bytes.len())
}

/// Changes the operations of a transaction in place. `None` when they are not what they should be.
/// Source: ZooKeeper 3.4.14 MultiTransactionRecord.java; zookeeper.jute, CreateRequest and the others.
fn create_for_create2(operations: &mut [u8]) -> Option<()> {
    let mut at = 0;
    loop {
        // type, done, err
        let (kind, kind_at) = (int(operations, at)?, at);
        let is_done = *operations.get(at + 4)? != 0;
        if is_done {
            return Some(());
        }
        at = behind(operations, at + 9)?;
        match kind {
            CREATE | CREATE2 => {
                at = behind(operations, at)?;
                let acls = int(operations, at)?;
                at += 4;
                for _ in 0..acls {
                    at = behind(operations, at + 4)?;
                    at = behind(operations, at)?;
                }
            }
            SET_DATA => at = behind(operations, at)?,
            DELETE | CHECK => {}
            _ => return None,
        }
        // Each ends with a number: flags or version.
        at += 4;
        if kind == CREATE2 {
            operations.get_mut(kind_at..kind_at + 4)?.copy_from_slice(&CREATE.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(into: &mut Vec<u8>, text: &str) {
        into.extend_from_slice(&(text.len() as i32).to_be_bytes());
        into.extend_from_slice(text.as_bytes());
    }

    fn header(into: &mut Vec<u8>, kind: i32, done: bool) {
        into.extend_from_slice(&kind.to_be_bytes());
        into.push(u8::from(done));
        into.extend_from_slice(&(-1i32).to_be_bytes());
    }

    fn transaction(create: i32) -> Vec<u8> {
        let mut bytes = Vec::new();
        for kind in [CHECK, create, SET_DATA, create, DELETE] {
            header(&mut bytes, kind, false);
            text(&mut bytes, "/a/path");
            match kind {
                SET_DATA => text(&mut bytes, "data"),
                CHECK | DELETE => {}
                _ => {
                    bytes.extend_from_slice(&(-1i32).to_be_bytes());
                    bytes.extend_from_slice(&2i32.to_be_bytes());
                    for _ in 0..2 {
                        bytes.extend_from_slice(&31i32.to_be_bytes());
                        text(&mut bytes, "world");
                        text(&mut bytes, "anyone");
                    }
                }
            }
            // The flags or the version, which look like the very number that is sought.
            bytes.extend_from_slice(&CREATE2.to_be_bytes());
        }
        header(&mut bytes, -1, true);
        bytes
    }

    #[test]
    fn every_create2_of_a_transaction_becomes_a_create_and_nothing_else_changes() {
        let mut bytes = transaction(CREATE2);
        assert_eq!(create_for_create2(&mut bytes), Some(()));
        assert_eq!(bytes, transaction(CREATE));
        assert_eq!(create_for_create2(&mut bytes), Some(()));
        assert_eq!(bytes, transaction(CREATE));
    }

    #[test]
    fn a_transaction_that_is_cut_is_no_reason_to_panic() {
        let whole = transaction(CREATE2);
        // Of the header at the end only the err is not looked at.
        for length in 0..whole.len() - 4 {
            assert_eq!(create_for_create2(&mut whole[..length].to_vec()), None);
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x80;
            let _ = create_for_create2(&mut changed);
        }
    }
}
