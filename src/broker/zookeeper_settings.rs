//! What the session with ZooKeeper is opened with: the `zookeeper.*` settings, and what operators of JVM brokers give in
//! KAFKA_OPTS instead.
use std::time::Duration;

use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::jaas;
use odradek_zookeeper::settings::{SaslDigest, Settings, Tls};

use crate::broker::jvm_environment;
use crate::config::sections::{ZooKeeperConfig, ZooKeeperSslConfig};

/// The `zookeeper.*` settings as the session takes them.
pub fn zookeeper_settings(config: &ZooKeeperConfig) -> Result<Settings, ZkError> {
    let mut settings = Settings::new(config.connect.clone());
    settings.session_timeout = Duration::from_millis(u64::from(config.session_timeout_ms));
    settings.connection_timeout = Duration::from_millis(u64::from(config.connection_timeout_ms));
    settings.set_acl = config.set_acl;
    settings.max_in_flight_requests = config.max_in_flight_requests;
    let ssl = with_jvm_properties(&config.ssl, jvm_environment::property);
    if ssl.client_enable {
        settings.tls = Some(tls(&ssl)?);
    }
    settings.sasl = sasl_login()?;
    if let Some(bytes) = jvm_environment::property("jute.maxbuffer").and_then(|bytes| bytes.parse().ok()) {
        settings.request_bytes_max = bytes;
    }
    let authenticates = settings.sasl.is_some() || settings.tls.as_ref().is_some_and(|tls| tls.keystore_pem.is_some());
    if config.set_acl && !authenticates {
        return Err(ZkError::Settings(
            "zookeeper.set.acl is true, but ZooKeeper client TLS configuration identifying at least \
             zookeeper.ssl.client.enable, zookeeper.clientCnxnSocket, and zookeeper.ssl.keystore.location was not \
             present and the verification of the JAAS login file failed"
                .to_owned(),
        ));
    }
    Ok(settings)
}

fn sasl_login() -> Result<Option<SaslDigest>, ZkError> {
    if jvm_environment::property("zookeeper.sasl.client").is_some_and(|enabled| enabled.eq_ignore_ascii_case("false")) {
        return Ok(None);
    }
    let Some(path) = jvm_environment::property("java.security.auth.login.config") else { return Ok(None) };
    let text = std::fs::read_to_string(&path)
        .map_err(|error| ZkError::Settings(format!("read the JAAS file {path}: {error}")))?;
    let section = jvm_environment::property("zookeeper.sasl.clientconfig").unwrap_or_else(|| "Client".to_owned());
    jaas::login(&text, &section)
}

/// What server.properties does not say, Kafka takes from the system properties of ZooKeeper's client, which were the
/// only place for it before 2.5.
/// Source: kafka 3.9 server/src/main/java/org/apache/kafka/server/config/ZkConfigs.java, zkSslConfigToSystemPropertyMap.
fn with_jvm_properties(config: &ZooKeeperSslConfig, property: impl Fn(&str) -> Option<String>) -> ZooKeeperSslConfig {
    let says = |name: &str, value: &str| property(name).is_some_and(|said| said.eq_ignore_ascii_case(value));
    let or = |set: &Option<String>, name: &str| set.clone().or_else(|| property(name));
    ZooKeeperSslConfig {
        client_enable: config.client_enable || says("zookeeper.client.secure", "true"),
        keystore_location: or(&config.keystore_location, "zookeeper.ssl.keyStore.location"),
        keystore_type: or(&config.keystore_type, "zookeeper.ssl.keyStore.type"),
        truststore_location: or(&config.truststore_location, "zookeeper.ssl.trustStore.location"),
        truststore_type: or(&config.truststore_type, "zookeeper.ssl.trustStore.type"),
        verify_hostname: config.verify_hostname && !says("zookeeper.ssl.hostnameVerification", "false"),
    }
}

fn tls(config: &ZooKeeperSslConfig) -> Result<Tls, ZkError> {
    // Kafka would trust whatever the JVM does.
    let Some(truststore) = &config.truststore_location else {
        return Err(ZkError::Settings(
            "zookeeper.ssl.client.enable is true, but zookeeper.ssl.truststore.location, a PEM file with the \
             certificates that sign those of the ZooKeeper servers, is not set"
                .to_owned(),
        ));
    };
    let truststore_pem = pem("truststore", truststore, &config.truststore_type, |file| {
        format!("keytool -list -rfc -keystore {file} > truststore.pem")
    })?;
    let convert_keystore = |file: &str| {
        format!(
            "keytool -importkeystore -srckeystore {file} -destkeystore keystore.p12 -deststoretype PKCS12; \
             openssl pkcs12 -in keystore.p12 -nodes -out keystore.pem"
        )
    };
    let keystore_pem = match &config.keystore_location {
        None => None,
        Some(location) => {
            let keystore = pem("keystore", location, &config.keystore_type, convert_keystore)?;
            if keystore.contains("ENCRYPTED") {
                return Err(ZkError::Settings(format!(
                    "zookeeper.ssl.keystore.location={location}: its private key is encrypted, which is not supported; \
                     decrypt it with: openssl pkey -in {location} -out key.pem, and put the certificates behind it"
                )));
            }
            // One PEM file holds the key and its certificates, as ZooKeeper's own client expects it.
            Some((keystore.clone(), keystore))
        }
    };
    Ok(Tls { truststore_pem, keystore_pem, verify_hostname: config.verify_hostname })
}

/// The text of a PEM file; `convert` says how other stores become one.
fn pem(
    store: &str,
    location: &str,
    kind: &Option<String>,
    convert: impl Fn(&str) -> String,
) -> Result<String, ZkError> {
    let is_pem = match kind.as_deref() {
        Some(kind) => kind.eq_ignore_ascii_case("PEM"),
        None => location.ends_with(".pem"),
    };
    if !is_pem {
        return Err(ZkError::Settings(format!(
            "zookeeper.ssl.{store}.location={location}: only PEM files are supported, and zookeeper.ssl.{store}.type \
             must be PEM unless the name ends in .pem; convert it with: {}",
            convert(location)
        )));
    }
    std::fs::read_to_string(location)
        .map_err(|error| ZkError::Settings(format!("read zookeeper.ssl.{store}.location={location}: {error}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n";

    fn config(truststore: Option<&str>, keystore: Option<&str>) -> ZooKeeperSslConfig {
        ZooKeeperSslConfig {
            client_enable: true,
            truststore_location: truststore.map(str::to_owned),
            keystore_location: keystore.map(str::to_owned),
            verify_hostname: true,
            ..ZooKeeperSslConfig::default()
        }
    }

    #[test]
    fn what_the_settings_do_not_say_is_taken_from_the_system_properties() {
        let said = BTreeMap::from([
            ("zookeeper.client.secure", "true"),
            ("zookeeper.ssl.trustStore.location", "/said.pem"),
            ("zookeeper.ssl.keyStore.location", "/said"),
            ("zookeeper.ssl.keyStore.type", "PEM"),
        ]);
        let set = ZooKeeperSslConfig { client_enable: false, ..config(Some("/set.pem"), None) };
        let taken = with_jvm_properties(&set, |name| said.get(name).map(|value| value.to_string()));
        let expected =
            ZooKeeperSslConfig { keystore_type: Some("PEM".to_owned()), ..config(Some("/set.pem"), Some("/said")) };
        assert!(taken == expected, "{:?}", (taken.client_enable, taken.truststore_location, taken.keystore_location));
        assert!(with_jvm_properties(&set, |_| None) == set);
    }

    #[test]
    fn pem_stores_are_known_by_their_name_or_type() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("a writable directory");
            path.to_str().expect("text").to_owned()
        };
        let truststore = write("trust.pem", CERTIFICATE);
        let keystore = write("both", &format!("{KEY}{CERTIFICATE}"));
        let mut with_key = config(Some(&truststore), Some(&keystore));
        with_key.keystore_type = Some("pem".to_owned());
        let read = tls(&with_key).expect("both are PEM");
        assert_eq!(read.truststore_pem, CERTIFICATE);
        assert_eq!(read.keystore_pem, Some((format!("{KEY}{CERTIFICATE}"), format!("{KEY}{CERTIFICATE}"))));
        assert_eq!(tls(&config(Some(&truststore), None)).expect("no key is needed").keystore_pem, None);
    }

    #[test]
    fn what_is_no_plain_pem_is_refused_by_the_name_of_its_setting_and_with_a_way_out() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let encrypted = dir.path().join("encrypted.pem").to_str().expect("text").to_owned();
        std::fs::write(&encrypted, KEY.replace("PRIVATE", "ENCRYPTED PRIVATE")).expect("a writable directory");
        let missing = dir.path().join("missing.pem").to_str().expect("text").to_owned();
        for (config, setting, way_out) in [
            (config(None, None), "zookeeper.ssl.truststore.location", "is not set"),
            (config(Some("/t.jks"), None), "zookeeper.ssl.truststore.location=/t.jks", "keytool -list -rfc"),
            (config(Some(&missing), None), "zookeeper.ssl.truststore.location=", "No such file"),
            (config(Some(&encrypted), Some("/k.p12")), "zookeeper.ssl.keystore.location=/k.p12", "openssl pkcs12"),
            (config(Some(&encrypted), Some(&encrypted)), "zookeeper.ssl.keystore.location=", "openssl pkey"),
        ] {
            let Err(ZkError::Settings(refusal)) = tls(&config) else { panic!("{setting} is accepted") };
            assert!(refusal.contains(setting) && refusal.contains(way_out), "{refusal}");
        }
    }
}
