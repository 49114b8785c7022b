//! Binds the listeners, opens them and accepts their connections.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use log::{debug, info, warn};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Duration;

use crate::model::endpoint::ipv4_first;
use crate::network::connection;
use crate::network::counters::count;
use crate::network::limits::Rejection;
use crate::network::memory::ConnectionMemory;
use crate::network::transport::Plain;
use crate::network::{Peer, Service, Shared};

/// Where to listen, and the socket settings of what is accepted there.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// Upper case.
    pub name: String,
    /// Empty for all addresses.
    pub host: String,
    pub port: u16,
    /// `socket.listen.backlog.size`
    pub backlog: i32,
    /// `socket.send.buffer.bytes`; `None` for the system's default.
    pub send_buffer_bytes: Option<usize>,
    /// `socket.receive.buffer.bytes`; `None` for the system's default.
    pub receive_buffer_bytes: Option<usize>,
}

/// A listener that could not be bound.
#[derive(Debug)]
pub struct BindError {
    pub listener: String,
    pub address: String,
    pub error: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Socket server failed to bind to {} (listener {}): {}.", self.address, self.listener, self.error)
    }
}

impl std::error::Error for BindError {}

impl ListenerSettings {
    fn failed(&self, error: io::Error) -> BindError {
        BindError { listener: self.name.clone(), address: format!("{}:{}", self.host, self.port), error }
    }
}

/// An address that is taken for this broker. Whoever connects is refused: to wait for an answer in its backlog, perhaps for the
/// recovery of all logs, would cost more than to try elsewhere, and who looks whether the broker is ready would think so.
#[derive(Debug)]
pub struct BoundListener {
    pub settings: ListenerSettings,
    socket: Socket,
}

impl BoundListener {
    pub fn bind(settings: ListenerSettings) -> Result<BoundListener, BindError> {
        match bind_socket(&settings) {
            Ok(socket) => Ok(BoundListener { settings, socket }),
            Err(error) => Err(settings.failed(error)),
        }
    }

    /// The address with the port that the system chose where the setting said 0.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// Of two that have bound one address meanwhile, which `SO_REUSEADDR` lets them, the first takes it.
    pub fn listen(self) -> Result<Listener, BindError> {
        let BoundListener { settings, socket } = self;
        let listening = socket.listen(settings.backlog).and_then(|()| TcpListener::from_std(socket.into()));
        match listening {
            Ok(listener) => Ok(Listener { settings, listener }),
            Err(error) => Err(settings.failed(error)),
        }
    }
}

/// One that takes connections.
#[derive(Debug)]
pub struct Listener {
    settings: ListenerSettings,
    listener: TcpListener,
}

fn bind_socket(settings: &ListenerSettings) -> io::Result<Socket> {
    use std::net::ToSocketAddrs;
    let candidates: Vec<SocketAddr> = if settings.host.is_empty() {
        // Both families by one socket, or IPv4 alone where there is no IPv6.
        vec![([0u16; 8], settings.port).into(), ([0u8; 4], settings.port).into()]
    } else {
        ipv4_first((settings.host.trim_matches(['[', ']']), settings.port).to_socket_addrs()?)
    };
    let mut failure = io::Error::new(io::ErrorKind::AddrNotAvailable, "the host has no address");
    for address in candidates {
        match bind_address(address, settings) {
            Ok(socket) => return Ok(socket),
            Err(error) => failure = error,
        }
        if failure.kind() == io::ErrorKind::AddrInUse {
            break;
        }
    }
    Err(failure)
}

/// An IPv4 client of a socket for both families is one, and a link-local IPv6 client has its interface.
fn client_address(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

fn bind_address(address: SocketAddr, settings: &ListenerSettings) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && settings.host.is_empty() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    // Set before listen, so that accepted sockets have the window scale for it.
    if let Some(bytes) = settings.receive_buffer_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Accepts connections until the shutdown signal, then waits for their tasks to end.
pub async fn accept<S: Service>(
    listener: Listener,
    service: Arc<S>,
    shared: Arc<Shared>,
    mut shutdown: watch::Receiver<bool>,
) {
    let Listener { settings, listener } = listener;
    let name: Arc<str> = settings.name.as_str().into();
    let mut connections = JoinSet::new();
    // Descriptors, and that was said.
    let mut is_short = false;
    loop {
        let accepted = tokio::select! {
            accepted = async {
                shared.connections.wait_for_room(&name).await;
                listener.accept().await
            } => accepted,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    log::error!("a connection task of listener {name} panicked; its connection is closed: {error}");
                }
                continue;
            }
            _ = shutdown.changed() => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most of the time: closing connections is what helps, and time.
                if !std::mem::replace(&mut is_short, true) {
                    warn!("listener {name} cannot accept a connection: {error}");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let descriptor = usize::try_from(stream.as_raw_fd()).unwrap_or(usize::MAX);
        let place = match shared.connections.place(&name, address.ip(), descriptor) {
            Ok(place) => place,
            Err(why) => {
                count(&shared.counters.connections_rejected, 1);
                match why {
                    Rejection::Descriptors { .. } if std::mem::replace(&mut is_short, true) => {}
                    Rejection::Descriptors { .. } => {
                        warn!("listener {name} rejects the connection from {address}, and more like it: {why}");
                    }
                    Rejection::Address => info!("rejected the connection from {address}: {why}"),
                }
                continue;
            }
        };
        is_short = false;
        if let Err(error) = configure(&stream, &settings) {
            debug!("connection from {address} cannot be configured: {error}");
            continue;
        }
        count(&shared.counters.connections_accepted, 1);
        let peer = Arc::new(Peer {
            listener: Arc::clone(&name),
            address: client_address(address),
            number: place.number(),
            session: service.open_session(),
            memory: ConnectionMemory::new(Arc::clone(&shared.memory)),
        });
        let (counters, transport) = (Arc::clone(&shared.counters), Plain::new(stream));
        let served = connection::serve(transport, peer, Arc::clone(&service), Arc::clone(&shared), shutdown.clone());
        connections.spawn(async move {
            served.await;
            count(&counters.connections_closed, 1);
            drop(place);
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

fn configure(stream: &tokio::net::TcpStream, settings: &ListenerSettings) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    socket.set_keepalive(true)?;
    if let Some(bytes) = settings.send_buffer_bytes {
        socket.set_send_buffer_size(bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Source: OpenJDK 17 java.base/share/native/libnet/net_util.c (NET_SockaddrToInetAddress).
    #[test]
    fn a_client_has_the_address_that_a_jvm_sees() {
        for (accepted, seen) in [
            ("127.0.0.1:9", "127.0.0.1:9"),
            ("[::ffff:10.0.0.1]:9", "10.0.0.1:9"),
            ("[::1]:9", "[::1]:9"),
            ("[fe80::1%2]:9", "[fe80::1%2]:9"),
        ] {
            let [accepted, seen]: [SocketAddr; 2] = [accepted, seen].map(|text| text.parse().expect("an address"));
            assert_eq!(client_address(accepted), seen);
        }
    }
}
