//! The name of this machine as a JVM finds it: what Kafka advertises where a listener has no host.
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/KafkaServer.scala, createBrokerInfo;
//! OpenJDK 17 java/net/InetAddress.java, getLocalHost and getHostFromNameService.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

use crate::model::endpoint::ipv4_first;
use crate::model::host_address::host_address;

/// What the system knows of names, so that the rules can be tested without its files and servers.
trait Names {
    /// The name that the kernel has for this machine.
    fn node_name(&self) -> String;
    /// The addresses of a name, in the order of the resolver.
    fn addresses(&self, name: &str) -> io::Result<Vec<SocketAddr>>;
    /// The name of an address; an error where it has none.
    fn name(&self, address: IpAddr) -> io::Result<String>;
}

struct System;

impl Names for System {
    fn node_name(&self) -> String {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    }

    fn addresses(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        Ok((name, 0).to_socket_addrs()?.collect())
    }

    fn name(&self, address: IpAddr) -> io::Result<String> {
        Ok(dns_lookup::lookup_addr(&address)?)
    }
}

/// `InetAddress.getLocalHost().getCanonicalHostName()`. Asks the system's resolver, and so may wait for its servers.
/// The error says what could not be found, in Java's words.
pub(crate) fn canonical_host_name() -> Result<String, String> {
    canonical(&System)
}

fn canonical(names: &impl Names) -> Result<String, String> {
    let node = names.node_name();
    let node = if node.is_empty() { "localhost".to_owned() } else { node };
    let address = match node.as_str() {
        // Not looked up: it is the loopback address whatever the files say.
        "localhost" => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0),
        _ => {
            let unknown = |why: String| format!("java.net.UnknownHostException: {node}: {node}: {why}");
            let found = names.addresses(&node).map_err(|why| unknown(reason(&why)))?;
            let first = ipv4_first(found).into_iter().next();
            first.ok_or_else(|| unknown("Name or service not known".to_owned()))?
        }
    };
    let leads_back = |name: &String| {
        names.addresses(name).is_ok_and(|found| found.iter().any(|candidate| candidate.ip() == address.ip()))
    };
    // A name that does not lead back to the address may be anybody's, so the address stands for itself.
    Ok(names.name(address.ip()).ok().filter(leads_back).unwrap_or_else(|| host_address(&address)))
}

/// The resolver's own words, without those that the standard library puts before them.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.strip_prefix("failed to lookup address information: ").unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hosts file: names and the addresses of each.
    struct Hosts {
        node: &'static str,
        forward: &'static [(&'static str, &'static [&'static str])],
        reverse: &'static [(&'static str, &'static str)],
    }

    impl Names for Hosts {
        fn node_name(&self) -> String {
            self.node.to_owned()
        }

        fn addresses(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
            let found = self.forward.iter().find(|(known, _)| *known == name);
            let (_, addresses) = found
                .ok_or_else(|| io::Error::other("failed to lookup address information: Name or service not known"))?;
            Ok(addresses.iter().map(|text| text.parse().expect("an address")).collect())
        }

        fn name(&self, address: IpAddr) -> io::Result<String> {
            let found = self.reverse.iter().find(|(known, _)| known.parse() == Ok(address));
            found.map(|(_, name)| (*name).to_owned()).ok_or_else(|| io::Error::other("Name or service not known"))
        }
    }

    #[test]
    fn the_name_is_the_one_that_the_address_leads_to_and_that_leads_back() {
        let hosts = Hosts {
            node: "kafka1",
            forward: &[("kafka1", &["10.0.0.7:0"]), ("kafka1.example.org", &["10.0.0.8:0", "10.0.0.7:0"])],
            reverse: &[("10.0.0.7", "kafka1.example.org")],
        };
        assert_eq!(canonical(&hosts), Ok("kafka1.example.org".to_owned()));
    }

    #[test]
    fn an_address_without_a_name_of_its_own_is_the_answer_itself() {
        let nameless = Hosts { node: "vm", forward: &[("vm", &["10.0.0.7:0"])], reverse: &[] };
        assert_eq!(canonical(&nameless), Ok("10.0.0.7".to_owned()));
        let elsewhere = Hosts {
            node: "vm",
            forward: &[("vm", &["10.0.0.7:0"]), ("pool.example.org", &["10.0.0.9:0"])],
            reverse: &[("10.0.0.7", "pool.example.org")],
        };
        assert_eq!(canonical(&elsewhere), Ok("10.0.0.7".to_owned()));
        let unknown =
            Hosts { node: "vm", forward: &[("vm", &["10.0.0.7:0"])], reverse: &[("10.0.0.7", "gone.example.org")] };
        assert_eq!(canonical(&unknown), Ok("10.0.0.7".to_owned()));
    }

    #[test]
    fn ipv4_goes_before_ipv6_and_ipv6_is_written_out() {
        let both = Hosts { node: "vm", forward: &[("vm", &["[fd00::1]:0", "10.0.0.7:0", "10.0.0.8:0"])], reverse: &[] };
        assert_eq!(canonical(&both), Ok("10.0.0.7".to_owned()));
        let only = Hosts { node: "vm", forward: &[("vm", &["[fd00::a:0:1]:0", "[fd00::2]:0"])], reverse: &[] };
        assert_eq!(canonical(&only), Ok("fd00:0:0:0:0:a:0:1".to_owned()));
        let scoped = Hosts { node: "vm", forward: &[("vm", &["[fe80::1%2]:0"])], reverse: &[] };
        assert_eq!(canonical(&scoped), Ok("fe80:0:0:0:0:0:0:1%2".to_owned()));
    }

    #[test]
    fn a_machine_without_a_name_is_localhost() {
        for node in ["", "localhost"] {
            let named = Hosts {
                node,
                forward: &[("localhost", &["[::1]:0", "127.0.0.1:0"])],
                reverse: &[("127.0.0.1", "localhost")],
            };
            assert_eq!(canonical(&named), Ok("localhost".to_owned()));
            let bare = Hosts { node, forward: &[], reverse: &[] };
            assert_eq!(canonical(&bare), Ok("127.0.0.1".to_owned()));
        }
    }

    #[test]
    fn a_name_that_no_resolver_knows_is_refused_in_javas_words() {
        let lost = Hosts { node: "vm", forward: &[], reverse: &[] };
        let refusal = "java.net.UnknownHostException: vm: vm: Name or service not known";
        assert_eq!(canonical(&lost), Err(refusal.to_owned()));
    }
}
