//! What a connection has told of its client. Who it is, and until when, has its place here too once clients prove it.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

/// The library that a client uses, by its own words (KIP-511): letters, digits, `-` and `.`, as ApiVersions allows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSoftware {
    pub name: String,
    pub version: String,
}

/// Longer names are cut: a connection keeps this for as long as it lives.
const SOFTWARE_BYTES_MAX: usize = 128;

#[derive(Debug, Default)]
pub struct ClientSession {
    software: ArcSwapOption<ClientSoftware>,
}

impl ClientSession {
    /// `None` until the client has sent an ApiVersions of version 3 or later.
    pub fn software(&self) -> Option<Arc<ClientSoftware>> {
        self.software.load_full()
    }

    pub fn set_software(&self, software: ClientSoftware) {
        let [name, version] =
            [software.name, software.version].map(|text| text.chars().take(SOFTWARE_BYTES_MAX).collect());
        self.software.store(Some(Arc::new(ClientSoftware { name, version })));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_remembers_a_bounded_name_of_its_client() {
        let session = ClientSession::default();
        assert_eq!(session.software(), None);
        session.set_software(ClientSoftware { name: "x".repeat(1 << 15), version: "4.1".into() });
        let known = session.software().expect("it was told");
        assert_eq!((known.name.len(), known.version.as_str()), (SOFTWARE_BYTES_MAX, "4.1"));
    }
}
