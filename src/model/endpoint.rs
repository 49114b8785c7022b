//! Where a broker listens.

use std::net::SocketAddr;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `PLAINTEXT`, or whatever `listener.security.protocol.map` calls it.
    pub listener: String,
    /// 0 PLAINTEXT, 1 SSL, 2 SASL_PLAINTEXT, 3 SASL_SSL.
    pub security_protocol: i16,
    pub host: String,
    pub port: i32,
}

impl Endpoint {
    /// What to connect to: a host that is an IPv6 address stands in brackets.
    pub fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// The addresses of a name in a JVM's order: IPv4 first unless it is told otherwise (`java.net.preferIPv6Addresses`), and in
/// the resolver's order within a family.
pub fn ipv4_first(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut addresses: Vec<SocketAddr> = addresses.into_iter().collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses
}

/// The endpoint of this listener name; a broker has one for each.
pub fn of_listener<'a>(endpoints: &'a [Endpoint], listener: &str) -> Option<&'a Endpoint> {
    endpoints.iter().find(|endpoint| endpoint.listener == listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_goes_first_and_each_family_keeps_its_order() {
        let addresses = |texts: [&str; 4]| texts.map(|text| text.parse::<SocketAddr>().expect("an address"));
        let resolved = addresses(["[fd00::2]:1", "10.0.0.9:1", "[fd00::1]:1", "10.0.0.7:1"]);
        let expected = addresses(["10.0.0.9:1", "10.0.0.7:1", "[fd00::2]:1", "[fd00::1]:1"]);
        assert_eq!(ipv4_first(resolved), expected);
    }
}
