//! Addresses of hosts as a JVM writes them.

use std::net::SocketAddr;

/// `InetAddress.getHostAddress`: an IPv6 address with all its groups, and the number of its interface if it needs one.
pub fn host_address(address: &SocketAddr) -> String {
    match address {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => {
            let groups = address.ip().segments().map(|group| format!("{group:x}")).join(":");
            match address.scope_id() {
                0 => groups,
                id => format!("{groups}%{id}"),
            }
        }
    }
}
