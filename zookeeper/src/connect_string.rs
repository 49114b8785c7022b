//! `zookeeper.connect` as ZooKeeper's own client reads it.
//! Source: ZooKeeper 3.8.4 client/ConnectStringParser.java, common/StringUtils.java (split), common/NetUtils.java,
//! common/PathUtils.java (validatePath); kafka 3.9.1 core/src/main/scala/kafka/zk/KafkaZkClient.scala, apply.

const DEFAULT_PORT: u16 = 2181;

/// Servers, and the path below which the cluster lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectString {
    /// Never empty. A host stands without the brackets of an IPv6 address.
    pub servers: Vec<(String, u16)>,
    /// `None` at the root. Everything behind the first slash, so `h:1/a,h:2/b` names one server and the path `/a,h:2/b`.
    pub chroot: Option<String>,
}

impl ConnectString {
    /// The error says what is wrong with the text.
    pub fn parse(text: &str) -> Result<ConnectString, String> {
        let (hosts, chroot) = match text.find('/') {
            Some(at) => text.split_at(at),
            None => (text, ""),
        };
        let chroot = match chroot {
            "" | "/" => None,
            path => Some(valid_path(path)?.to_owned()),
        };
        let servers: Vec<(String, u16)> =
            hosts.split(',').map(str::trim).filter(|host| !host.is_empty()).map(server).collect::<Result<_, _>>()?;
        if servers.is_empty() {
            return Err("it names no server".to_owned());
        }
        Ok(ConnectString { servers, chroot })
    }
}

fn server(text: &str) -> Result<(String, u16), String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) =
                rest.rsplit_once(']').ok_or_else(|| format!("{text} starts with '[' but has no matching ']'"))?;
            match port {
                "" => (host, ""),
                port => (host, port.strip_prefix(':').ok_or_else(|| format!("{text} does not have : after ]"))?),
            }
        }
        None => text.rsplit_once(':').unwrap_or((text, "")),
    };
    if host.is_empty() {
        return Err(format!("{text} has no host"));
    }
    // A colon at the end counts for nothing.
    let port = match port {
        "" => DEFAULT_PORT,
        port => port.parse().ok().filter(|port| *port > 0).ok_or_else(|| format!("{text} has no valid port"))?,
    };
    Ok((host.to_owned(), port))
}

fn valid_path(path: &str) -> Result<&str, String> {
    let refused = |reason: &str| Err(format!("the path {path:?} is not usable: {reason}"));
    if path.ends_with('/') {
        return refused("Path must not end with / character");
    }
    for name in path.split('/').skip(1) {
        match name {
            "" => return refused("empty node name specified"),
            "." | ".." => return refused("relative paths not allowed"),
            _ => {}
        }
    }
    let is_invalid = |c: char| matches!(u32::from(c), 0..=0x1f | 0x7f..=0x9f | 0xd800..=0xf8ff | 0xfff0..=0xffff);
    match path.contains(is_invalid) {
        true => refused("invalid character"),
        false => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Vec<(String, u16)>, Option<String>) {
        let ConnectString { servers, chroot } = ConnectString::parse(text).unwrap();
        (servers, chroot)
    }

    #[test]
    fn hosts_and_chroot_are_taken_as_zookeepers_client_takes_them() {
        let of = |servers: &[(&str, u16)], chroot: Option<&str>| {
            (servers.iter().map(|(host, port)| (host.to_string(), *port)).collect(), chroot.map(str::to_owned))
        };
        let h = &[("h", 1)][..];
        assert_eq!(parsed("h:1"), of(h, None));
        assert_eq!(parsed("h:1/"), of(h, None));
        assert_eq!(parsed("h:1,"), of(h, None));
        assert_eq!(parsed(" h:1 ,, h2 ,/a/b"), of(&[("h", 1), ("h2", 2181)], Some("/a/b")));
        assert_eq!(parsed("h:1/ch,h:1/ch"), of(h, Some("/ch,h:1/ch")));
        assert_eq!(parsed("h:1/ch,"), of(h, Some("/ch,")));
        assert_eq!(parsed("h:"), of(&[("h", 2181)], None));
        assert_eq!(parsed("[::1]:5,[fe80::2],::3:7"), of(&[("::1", 5), ("fe80::2", 2181), ("::3", 7)], None));
    }

    #[test]
    fn what_zookeepers_client_refuses_is_refused() {
        for text in [
            "",
            ",",
            "/a",
            "h/a/",
            "h//",
            "h/a//b",
            "h/a/../b",
            "h/./b",
            "h/a\u{1}",
            "h:x",
            "h:65536",
            "h:-1",
            "[::1",
            "[::1]5",
            "[]:1",
            ":1",
            "h:1/a/,h:1/a/",
        ] {
            assert!(ConnectString::parse(text).is_err(), "{text:?}");
        }
    }
}
