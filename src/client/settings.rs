//! Settings of clients, by the names that Kafka's clients know, and the part each client takes of them.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use crate::client::connection::ConnectionSettings;
use crate::client::error::ClientError;

/// Client settings as text, from files and command lines; later ones win. What nobody takes is told to the user.
#[derive(Clone, Debug, Default)]
pub struct ClientProperties {
    values: BTreeMap<String, String>,
}

impl ClientProperties {
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.values.insert(key.into(), value.into());
    }

    /// For a tool's own default, which a user's property overrules.
    pub fn set_if_absent(&mut self, key: &str, value: impl Into<String>) {
        self.values.entry(key.to_owned()).or_insert_with(|| value.into());
    }

    pub fn extend(&mut self, pairs: impl IntoIterator<Item = (String, String)>) {
        self.values.extend(pairs);
    }

    pub fn into_pairs(self) -> BTreeMap<String, String> {
        self.values
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    fn take<T: FromStr>(&mut self, key: &str) -> Result<Option<T>, ClientError> {
        let Some(text) = self.values.remove(key) else { return Ok(None) };
        match text.trim().parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(invalid(key, format!("invalid value {text}"))),
        }
    }

    fn take_or<T: FromStr>(&mut self, key: &str, default: T) -> Result<T, ClientError> {
        Ok(self.take(key)?.unwrap_or(default))
    }

    /// Of any case, as in Kafka.
    fn take_bool(&mut self, key: &str, default: bool) -> Result<bool, ClientError> {
        let text: Option<String> = self.take(key)?;
        match text.map(|text| text.trim().to_ascii_lowercase()).as_deref() {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(text) => Err(invalid(key, format!("invalid value {text}"))),
        }
    }

    fn take_ms(&mut self, key: &str, default_ms: u64) -> Result<Duration, ClientError> {
        Ok(Duration::from_millis(self.take_or(key, default_ms)?))
    }

    /// Forgets settings that make no difference to this client, so that they cause no warning.
    fn drop_known(&mut self, keys: &[&str]) {
        for key in keys {
            self.values.remove(*key);
        }
    }

    /// The names that no part of the client has taken.
    pub fn left_over(&self) -> Vec<&str> {
        self.values.keys().map(String::as_str).collect()
    }
}

/// `PLAINTEXT://host:port` says no more than `host:port`: the protocol that is spoken is another setting.
/// Source: kafka 3.9.0-rc3 clients/.../common/utils/Utils.java, HOST_PORT_PATTERN.
fn without_protocol(server: &str) -> &str {
    let is_plain = |protocol: &str| protocol.chars().all(|c| c.is_ascii_alphanumeric() || "-%._".contains(c));
    server.split_once("://").filter(|(protocol, _)| is_plain(protocol)).map_or(server, |(_, address)| address)
}

fn invalid(name: &str, reason: impl Into<String>) -> ClientError {
    ClientError::Setting { name: name.to_owned(), reason: reason.into() }
}

/// What every client of a cluster needs. Defaults of Kafka's clients 3.9.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    pub bootstrap_servers: Vec<String>,
    pub connection: ConnectionSettings,
    pub retry_backoff: Duration,
    /// How long an operation may take with all its retries.
    pub api_timeout: Duration,
    pub metadata_max_age: Duration,
}

impl ClusterSettings {
    pub fn new(bootstrap_servers: Vec<String>, client_id: &str) -> ClusterSettings {
        ClusterSettings {
            bootstrap_servers,
            connection: ConnectionSettings { client_id: client_id.to_owned(), ..Default::default() },
            retry_backoff: Duration::from_millis(100),
            api_timeout: Duration::from_secs(60),
            metadata_max_age: Duration::from_secs(300),
        }
    }

    pub fn take(properties: &mut ClientProperties, default_client_id: &str) -> Result<ClusterSettings, ClientError> {
        let servers: String = properties.take_or("bootstrap.servers", String::new())?;
        let servers: Vec<String> =
            servers.split(',').map(|s| without_protocol(s.trim()).to_owned()).filter(|s| !s.is_empty()).collect();
        if servers.is_empty() {
            return Err(invalid("bootstrap.servers", "no server is named"));
        }
        let protocol: String = properties.take_or("security.protocol", "PLAINTEXT".to_owned())?;
        if !protocol.eq_ignore_ascii_case("PLAINTEXT") {
            return Err(invalid("security.protocol", format!("{protocol} is not supported yet, only PLAINTEXT")));
        }
        let client_id: String = properties.take_or("client.id", default_client_id.to_owned())?;
        let mut settings = ClusterSettings::new(servers, &client_id);
        let connection = &mut settings.connection;
        connection.connect_timeout = properties.take_ms("socket.connection.setup.timeout.ms", 10_000)?;
        connection.request_timeout = properties.take_ms("request.timeout.ms", 30_000)?;
        let buffer = |bytes: Option<i64>| bytes.and_then(|bytes| u32::try_from(bytes).ok()).filter(|bytes| *bytes > 0);
        connection.send_buffer_bytes = buffer(properties.take("send.buffer.bytes")?);
        connection.receive_buffer_bytes = buffer(properties.take("receive.buffer.bytes")?);
        settings.retry_backoff = properties.take_ms("retry.backoff.ms", 100)?;
        settings.api_timeout = properties.take_ms("default.api.timeout.ms", 60_000)?;
        settings.metadata_max_age = properties.take_ms("metadata.max.age.ms", 300_000)?;
        properties.drop_known(&["client.dns.lookup", "key.serializer", "value.serializer", "key.deserializer"]);
        properties.drop_known(&["value.deserializer", "metric.reporters", "auto.include.jmx.reporter"]);
        Ok(settings)
    }
}

/// Defaults of Kafka's producer 3.9.
#[derive(Clone, Debug)]
pub struct ProducerSettings {
    pub cluster: ClusterSettings,
    /// -1, 0 or 1.
    pub acks: i16,
    pub is_idempotent: bool,
    /// Of all producers that have had it and will, one writes at a time, in transactions.
    pub transactional_id: Option<String>,
    pub transaction_timeout: Duration,
    pub linger: Duration,
    pub batch_bytes: usize,
    pub request_bytes_max: usize,
    /// Records wait for room beyond this.
    pub buffer_bytes: usize,
    /// One of none, gzip, snappy, lz4, zstd.
    pub compression: String,
    pub in_flight_max: usize,
    pub retries: u32,
    /// From `send` to success or failure.
    pub delivery_timeout: Duration,
    pub max_block: Duration,
}

impl ProducerSettings {
    pub fn take(properties: &mut ClientProperties, client_id: &str) -> Result<ProducerSettings, ClientError> {
        let cluster = ClusterSettings::take(properties, client_id)?;
        let acks_text: String = properties.take_or("acks", "all".to_owned())?;
        let acks = match acks_text.as_str() {
            "all" | "-1" => -1,
            "0" => 0,
            "1" => 1,
            other => return Err(invalid("acks", format!("invalid value {other}: must be one of all, -1, 0, 1"))),
        };
        let in_flight_max: usize = properties.take_or("max.in.flight.requests.per.connection", 5)?;
        let retries: u32 = properties.take_or("retries", i32::MAX as u32)?;
        let idempotence: Option<bool> = properties.take("enable.idempotence")?;
        // Without the setting, idempotence gives way to what contradicts it.
        let allows_idempotence = acks == -1 && retries > 0 && in_flight_max <= 5;
        if idempotence == Some(true) && !allows_idempotence {
            return Err(invalid(
                "enable.idempotence",
                "needs acks=all, retries above 0 and at most 5 requests in flight",
            ));
        }
        if in_flight_max == 0 {
            return Err(invalid("max.in.flight.requests.per.connection", "must be at least 1"));
        }
        let is_idempotent = idempotence.unwrap_or(allows_idempotence);
        let transactional_id: Option<String> = properties.take("transactional.id")?;
        if transactional_id.is_some() && !is_idempotent {
            let reason = "Cannot set a transactional.id without also enabling idempotence.";
            return Err(invalid("transactional.id", reason));
        }
        let codec_name: String = properties.take_or("compression.type", "none".to_owned())?;
        if !["none", "gzip", "snappy", "lz4", "zstd"].contains(&codec_name.as_str()) {
            return Err(invalid("compression.type", format!("unknown compression name: {codec_name}")));
        }
        Ok(ProducerSettings {
            acks,
            is_idempotent,
            transactional_id,
            transaction_timeout: properties.take_ms("transaction.timeout.ms", 60_000)?,
            linger: properties.take_ms("linger.ms", 0)?,
            batch_bytes: properties.take_or("batch.size", 16_384)?,
            request_bytes_max: properties.take_or("max.request.size", 1_048_576)?,
            buffer_bytes: properties.take_or("buffer.memory", 33_554_432)?,
            compression: codec_name,
            in_flight_max,
            retries,
            delivery_timeout: properties.take_ms("delivery.timeout.ms", 120_000)?,
            max_block: properties.take_ms("max.block.ms", 60_000)?,
            cluster,
        })
    }
}

const RANGE_ASSIGNOR: &str = "org.apache.kafka.clients.consumer.RangeAssignor";

/// Where a consumer starts when it has no position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetReset {
    Earliest,
    Latest,
    None,
}

/// Defaults of Kafka's consumer 3.9.
#[derive(Clone, Debug)]
pub struct ConsumerSettings {
    pub cluster: ClusterSettings,
    pub group_id: Option<String>,
    pub group_instance_id: Option<String>,
    pub offset_reset: OffsetReset,
    /// `None`: positions are committed only when asked.
    pub auto_commit_interval: Option<Duration>,
    pub session_timeout: Duration,
    pub heartbeat_interval: Duration,
    pub rebalance_timeout: Duration,
    pub fetch_bytes_min: i32,
    pub fetch_bytes_max: i32,
    pub partition_bytes_max: i32,
    pub fetch_wait: Duration,
    pub poll_records_max: usize,
    pub is_read_committed: bool,
    /// Whether a pattern may match internal topics.
    pub includes_internal_topics: bool,
    pub allows_auto_topic_creation: bool,
    pub checks_crc: bool,
}

impl ConsumerSettings {
    pub fn take(properties: &mut ClientProperties, client_id: &str) -> Result<ConsumerSettings, ClientError> {
        let cluster = ClusterSettings::take(properties, client_id)?;
        let reset: String = properties.take_or("auto.offset.reset", "latest".to_owned())?;
        let offset_reset = match reset.to_ascii_lowercase().as_str() {
            "earliest" => OffsetReset::Earliest,
            "latest" => OffsetReset::Latest,
            "none" => OffsetReset::None,
            _ => return Err(invalid("auto.offset.reset", format!("invalid value {reset}"))),
        };
        let isolation: String = properties.take_or("isolation.level", "read_uncommitted".to_owned())?;
        let is_read_committed = match isolation.as_str() {
            "read_committed" => true,
            "read_uncommitted" => false,
            _ => return Err(invalid("isolation.level", format!("invalid value {isolation}"))),
        };
        let strategy: Option<String> = properties.take("partition.assignment.strategy")?;
        if strategy.as_ref().is_some_and(|names| !names.split(',').any(|name| name.trim() == RANGE_ASSIGNOR)) {
            return Err(invalid("partition.assignment.strategy", format!("only {RANGE_ASSIGNOR} is supported")));
        }
        let protocol: Option<String> = properties.take("group.protocol")?;
        if protocol.is_some_and(|name| !name.eq_ignore_ascii_case("classic")) {
            return Err(invalid("group.protocol", "only classic is supported"));
        }
        let auto_commit_interval = properties.take_ms("auto.commit.interval.ms", 5_000)?;
        let auto_commits = properties.take_bool("enable.auto.commit", true)?;
        let group_id: Option<String> = properties.take("group.id")?;
        Ok(ConsumerSettings {
            auto_commit_interval: (auto_commits && group_id.is_some()).then_some(auto_commit_interval),
            group_id,
            group_instance_id: properties.take("group.instance.id")?,
            offset_reset,
            session_timeout: properties.take_ms("session.timeout.ms", 45_000)?,
            heartbeat_interval: properties.take_ms("heartbeat.interval.ms", 3_000)?,
            rebalance_timeout: properties.take_ms("max.poll.interval.ms", 300_000)?,
            fetch_bytes_min: properties.take_or("fetch.min.bytes", 1)?,
            fetch_bytes_max: properties.take_or("fetch.max.bytes", 52_428_800)?,
            partition_bytes_max: properties.take_or("max.partition.fetch.bytes", 1_048_576)?,
            fetch_wait: properties.take_ms("fetch.max.wait.ms", 500)?,
            poll_records_max: properties.take_or("max.poll.records", 500)?,
            is_read_committed,
            includes_internal_topics: !properties.take_bool("exclude.internal.topics", true)?,
            allows_auto_topic_creation: properties.take_bool("allow.auto.create.topics", true)?,
            checks_crc: properties.take_bool("check.crcs", true)?,
            cluster,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(pairs: &[(&str, &str)]) -> ClientProperties {
        let mut properties = ClientProperties::default();
        properties.set("bootstrap.servers", "a:9092, b:9092");
        properties.extend(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        properties
    }

    #[test]
    fn what_contradicts_idempotence_turns_it_off_unless_it_was_asked_for() {
        let settings = |pairs| ProducerSettings::take(&mut properties(pairs), "test");
        assert!(settings(&[]).unwrap().is_idempotent);
        assert!(!settings(&[("acks", "1")]).unwrap().is_idempotent);
        assert!(settings(&[("acks", "1"), ("enable.idempotence", "true")]).is_err());
        assert!(settings(&[("acks", "1"), ("transactional.id", "t")]).is_err());
        assert_eq!(settings(&[]).unwrap().cluster.bootstrap_servers, ["a:9092", "b:9092"]);
    }

    #[test]
    fn a_protocol_before_a_server_says_nothing() {
        let mut given =
            properties(&[("bootstrap.servers", "PLAINTEXT://a:9092,x-%._1://[::1]:9093, ://b:1,a b://c:1")]);
        let settings = ClusterSettings::take(&mut given, "test").unwrap();
        assert_eq!(settings.bootstrap_servers, ["a:9092", "[::1]:9093", "b:1", "a b://c:1"]);
    }

    #[test]
    fn settings_that_are_not_acted_on_are_left_over_by_name() {
        let mut given = properties(&[("group.id", "g"), ("interceptor.classes", "x"), ("no.such", "1")]);
        let settings = ConsumerSettings::take(&mut given, "test").unwrap();
        assert_eq!(settings.auto_commit_interval, Some(Duration::from_secs(5)));
        assert_eq!(given.left_over(), ["interceptor.classes", "no.such"]);
    }

    #[test]
    fn assignors_are_known_by_their_whole_names() {
        let given = |names: &str| {
            ConsumerSettings::take(&mut properties(&[("partition.assignment.strategy", names)]), "test").is_ok()
        };
        let package = "org.apache.kafka.clients.consumer";
        assert!(given(&format!("{package}.RangeAssignor")));
        assert!(given(&format!("{package}.StickyAssignor, {package}.RangeAssignor")));
        assert!(!given(&format!("{package}.StickyAssignor")));
        assert!(!given("com.example.RangeAssignor"));
    }

    #[test]
    fn encryption_that_is_not_there_is_refused_rather_than_ignored() {
        assert!(ConsumerSettings::take(&mut properties(&[("security.protocol", "SSL")]), "test").is_err());
    }
}
