//! Where a broker listens.

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

/// The endpoint of this listener name; a broker has one for each.
pub fn of_listener<'a>(endpoints: &'a [Endpoint], listener: &str) -> Option<&'a Endpoint> {
    endpoints.iter().find(|endpoint| endpoint.listener == listener)
}
