//! The cables between the processes. Each broker advertises to the others the address of a proxy before it, and knows
//! ZooKeeper by the addresses of proxies of its own; who connects to a broker is told by the kernel, since a process of ours
//! owns the socket. It takes no privilege, and works the same for any broker.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::support::{PATIENCE, eventually, free_port};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// Whatever is no broker, or none any more.
    Stranger,
    Broker(usize),
    ZooKeeper,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing arrives, and nobody is told. What was sent arrives when the cut is mended, as what TCP sends again.
    Silent,
    /// Connections end, those that are made meanwhile too.
    Broken,
}

/// What a server of ZooKeeper says in its first answer, and what whoever says the same may do: close the session.
#[derive(Clone)]
struct Session {
    id: i64,
    password: Vec<u8>,
}

#[derive(Clone)]
struct Cables {
    cuts: watch::Sender<HashMap<(Node, Node), Cut>>,
    /// By process id.
    brokers: Arc<Mutex<HashMap<u32, usize>>>,
    /// The last session of each broker.
    sessions: Arc<Mutex<HashMap<usize, Session>>>,
}

pub struct Network {
    runtime: Runtime,
    cables: Cables,
}

impl Network {
    pub fn new() -> Network {
        let cables = Cables { cuts: watch::Sender::default(), brokers: Arc::default(), sessions: Arc::default() };
        Network { runtime: Runtime::new().expect("a runtime"), cables }
    }

    /// A port that leads to this broker, for the others.
    pub fn before_broker(&self, id: usize, port: u16) -> u16 {
        self.proxy(None, Node::Broker(id), port)
    }

    /// A port that leads this broker to a server of ZooKeeper.
    pub fn before_zookeeper(&self, broker: usize, port: u16) -> u16 {
        self.proxy(Some(Node::Broker(broker)), Node::ZooKeeper, port)
    }

    /// Says which process a broker is now.
    pub fn is_broker(&self, process: u32, id: usize) {
        let mut brokers = self.cables.brokers.lock().expect("nobody panics with it");
        brokers.retain(|_, of| *of != id);
        brokers.insert(process, id);
    }

    pub fn cut(&self, one: Node, other: Node, how: Cut) {
        self.cables.cuts.send_modify(|cuts| {
            cuts.insert((one, other), how);
            cuts.insert((other, one), how);
        });
    }

    pub fn mend(&self) {
        self.cables.cuts.send_modify(HashMap::clear);
    }

    /// Ends the broker's session with ZooKeeper, of which the broker knows nothing before it hears of it. The broker may take
    /// its session back before it is closed: then it is closed again.
    pub fn expire_session(&self, broker: usize, zookeeper: u16) {
        let session = self.cables.sessions.lock().expect("nobody panics with it").get(&broker).cloned();
        let session = session.expect("a broker that is registered has a session");
        eventually(PATIENCE, &format!("the session of broker {broker} ends"), || {
            match self.runtime.block_on(close_session(&session, zookeeper)) {
                Ok(true) => Ok(()),
                closed => Err(format!("{closed:?}")),
            }
        });
    }

    fn proxy(&self, from: Option<Node>, to: Node, target: u16) -> u16 {
        let port = free_port();
        let cables = self.cables.clone();
        let listener = self.runtime.block_on(TcpListener::bind(("127.0.0.1", port))).expect("the port is free");
        self.runtime.spawn(async move {
            while let Ok((near, peer)) = listener.accept().await {
                let from = from.unwrap_or_else(|| cables.owner(peer, port));
                tokio::spawn(cables.clone().carry(near, from, to, target));
            }
        });
        port
    }
}

impl Cables {
    /// The broker whose socket this peer of ours is.
    fn owner(&self, peer: SocketAddr, port: u16) -> Node {
        // Its line: number, local address, remote address, state, queues, timer, retransmits, uid, timeout, inode.
        let (local, remote) = (format!(":{:04X}", peer.port()), format!(":{port:04X}"));
        let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| {
            let table = fs::read_to_string(table).ok()?;
            table.lines().find_map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                let is_it = fields.len() > 9 && fields[1].ends_with(&local) && fields[2].ends_with(&remote);
                is_it.then(|| format!("socket:[{}]", fields[9]))
            })
        });
        let Some(inode) = inode else { return Node::Stranger };
        let brokers = self.brokers.lock().expect("nobody panics with it").clone();
        let owns = |process: u32| {
            let descriptors = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
            descriptors.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|is| is.as_os_str() == inode.as_str())
        };
        let owner = brokers.into_iter().find(|(process, _)| owns(*process));
        owner.map_or(Node::Stranger, |(_, id)| Node::Broker(id))
    }

    /// Carries a connection until one of its ends closes it. One that the target refuses ends at once.
    async fn carry(self, near: TcpStream, from: Node, to: Node, target: u16) {
        self.uncut(from, to).await;
        let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await else { return };
        for socket in [&near, &far] {
            let _ = socket.set_nodelay(true);
        }
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        let mut cuts = self.cuts.subscribe();
        tokio::select! {
            _ = self.copy(near_in, far_out, from, to) => {}
            _ = self.copy(far_in, near_out, to, from) => {}
            _ = cuts.wait_for(|cuts| cuts.get(&(from, to)) == Some(&Cut::Broken)) => {}
        }
    }

    async fn uncut(&self, from: Node, to: Node) {
        let _ = self.cuts.subscribe().wait_for(|cuts| !cuts.contains_key(&(from, to))).await;
    }

    async fn copy(
        &self,
        mut source: impl AsyncRead + Unpin,
        mut sink: impl AsyncWrite + Unpin,
        from: Node,
        to: Node,
    ) -> std::io::Result<()> {
        let mut bytes = vec![0; 64 << 10];
        let mut is_first = true;
        loop {
            let count = source.read(&mut bytes).await?;
            if count == 0 {
                return Ok(());
            }
            if is_first && let (Node::ZooKeeper, Node::Broker(id)) = (from, to) {
                self.note_session(id, &bytes[..count]);
            }
            is_first = false;
            self.uncut(from, to).await;
            sink.write_all(&bytes[..count]).await?;
        }
    }

    /// A server's first answer: length, protocol version, timeout (4 bytes each), session id (8), password behind its length.
    fn note_session(&self, broker: usize, answer: &[u8]) {
        if let Some((id, password)) = answer.get(12..20).zip(answer.get(24..40)) {
            let id = i64::from_be_bytes(id.try_into().expect("eight bytes"));
            let session = Session { id, password: password.to_vec() };
            self.sessions.lock().expect("nobody panics with it").insert(broker, session);
        }
    }
}

/// Joins a session and closes it, or says that there is none: a server then gives it no time.
/// Source: zookeeper 3.8 zookeeper-jute/src/main/resources/zookeeper.jute, ConnectRequest and RequestHeader; the code of
/// closeSession is -11.
async fn close_session(session: &Session, zookeeper: u16) -> std::io::Result<bool> {
    let mut server = TcpStream::connect(("127.0.0.1", zookeeper)).await?;
    let mut connect = Vec::new();
    connect.extend(0_i32.to_be_bytes()); // protocol version
    connect.extend(0_i64.to_be_bytes()); // last zxid seen
    connect.extend(3000_i32.to_be_bytes()); // timeout in milliseconds
    connect.extend(session.id.to_be_bytes());
    connect.extend((session.password.len() as i32).to_be_bytes());
    connect.extend(&session.password);
    connect.push(0); // not read-only
    let close = [1_i32.to_be_bytes(), (-11_i32).to_be_bytes()].concat();
    let mut ask = async |request: &[u8]| {
        server.write_i32(request.len() as i32).await?;
        server.write_all(request).await?;
        let mut answer = vec![0; server.read_u32().await? as usize];
        server.read_exact(&mut answer).await.map(|_| answer)
    };
    let asked = async {
        let joined = ask(&connect).await?;
        // Behind the protocol version.
        let has_ended = joined.get(4..8) == Some(&[0; 4]);
        if !has_ended {
            ask(&close).await?;
        }
        Ok(has_ended)
    };
    tokio::time::timeout(Duration::from_secs(10), asked).await.map_err(std::io::Error::other)?
}
