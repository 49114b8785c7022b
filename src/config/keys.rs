//! Every broker setting of Kafka 3.9's ZooKeeper mode, one row each, and the names of those that 3.0 dropped.
//! Names, types, defaults, checks and update modes are those of the definition tables of 3.9.1; the dump in
//! `tests/golden/config/` was taken from them and a test compares key by key.

use super::definition::Check::*;
use super::definition::ConfigType::*;
use super::definition::Setting;
use super::definition::Standing::*;
use super::definition::Update::*;

/// `"name": Type = default, check, update, standing [internal], "documentation";`
macro_rules! settings {
    ($(#[$doc:meta])* $table:ident: $($name:literal: $type:ident = $default:expr, $check:expr, $update:ident, $standing:ident $($internal:ident)?, $documentation:literal;)*) => {
        $(#[$doc])*
        pub const $table: &[Setting] = &[$(Setting {
            name: $name,
            config_type: $type,
            default: $default,
            check: $check,
            update: $update,
            standing: $standing,
            internal: $crate::config::keys::settings!(@internal $($internal)?),
            documentation: $documentation,
        },)*];
    };
    (@internal) => { false };
    (@internal internal) => { true };
}
pub(super) use settings;

settings! {
    /// Sorted by name, as Kafka prints them at start.
    SERVER:
    "advertised.listeners": String = None, Any, PerBroker, Acted, "Addresses that clients and other brokers are told to use; the listeners themselves when unset.";
    "alter.config.policy.class.name": Class = None, Any, ReadOnly, Refused, "Class that may veto changes of topic and broker settings.";
    "alter.log.dirs.replication.quota.window.num": Int = Some("11"), AtLeast(1), ReadOnly, Acted, "Samples kept for the quota on moves between log directories.";
    "alter.log.dirs.replication.quota.window.size.seconds": Int = Some("1"), AtLeast(1), ReadOnly, Acted, "Seconds covered by one sample of the quota on moves between log directories.";
    "authorizer.class.name": String = Some(""), NonNull, ReadOnly, Refused, "Class that decides which principal may do what; empty allows everything.";
    "auto.create.topics.enable": Boolean = Some("true"), Any, ReadOnly, Acted, "Whether a request that names a missing topic creates it.";
    "auto.include.jmx.reporter": Boolean = Some("true"), Any, ReadOnly, NoEffect, "Whether the JMX reporter runs even when metric.reporters does not list it.";
    "auto.leader.rebalance.enable": Boolean = Some("true"), Any, ReadOnly, Acted, "Whether the controller moves leadership back to preferred replicas by itself.";
    "background.threads": Int = Some("10"), AtLeast(1), ClusterWide, NoEffect, "Threads for background work.";
    "broker.heartbeat.interval.ms": Int = Some("2000"), Any, ReadOnly, NoEffect, "KRaft only: time between a broker's heartbeats.";
    "broker.id": Int = Some("-1"), Any, ReadOnly, Acted, "Identity of this broker in the cluster; -1 has one generated.";
    "broker.id.generation.enable": Boolean = Some("true"), Any, ReadOnly, Acted, "Whether a broker without an id may be given one above reserved.broker.max.id.";
    "broker.rack": String = None, Any, ReadOnly, Acted, "Rack of this broker, used to spread replicas.";
    "broker.session.timeout.ms": Int = Some("9000"), Any, ReadOnly, NoEffect, "KRaft only: time without heartbeat after which a broker is fenced.";
    "client.quota.callback.class": Class = None, Any, ReadOnly, Refused, "Class that computes client quotas.";
    "compression.gzip.level": Int = Some("-1"), GzipLevel, ClusterWide, Acted, "Compression level where compression.type is gzip.";
    "compression.lz4.level": Int = Some("9"), Between(1, 17), ClusterWide, Acted, "Compression level where compression.type is lz4.";
    "compression.type": String = Some("producer"), OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]), ClusterWide, Acted, "Codec of stored batches; producer keeps what the producer chose.";
    "compression.zstd.level": Int = Some("3"), Between(-131_072, 22), ClusterWide, Acted, "Compression level where compression.type is zstd.";
    "connection.failed.authentication.delay.ms": Int = Some("100"), AtLeast(0), ReadOnly, NotYet, "How long a connection stays open after authentication failed.";
    "connections.max.idle.ms": Long = Some("600000"), Any, ReadOnly, Acted, "A connection without traffic for this long is closed; negative never closes one.";
    "connections.max.reauth.ms": Long = Some("0"), Any, ReadOnly, NotYet, "Longest time between two authentications of a SASL connection; 0 never asks again.";
    "control.plane.listener.name": String = None, Any, ReadOnly, Acted, "Listener that carries the controller's requests, apart from all other traffic.";
    "controlled.shutdown.enable": Boolean = Some("true"), Any, ReadOnly, Acted, "Whether a stopping broker first moves its leaderships away.";
    "controlled.shutdown.max.retries": Int = Some("3"), Any, ReadOnly, Acted, "Attempts at a controlled shutdown before stopping anyway.";
    "controlled.shutdown.retry.backoff.ms": Long = Some("5000"), Any, ReadOnly, Acted, "Pause between attempts at a controlled shutdown.";
    "controller.listener.names": String = None, Any, ReadOnly, Refused, "KRaft listeners; must be empty in ZooKeeper mode.";
    "controller.quorum.append.linger.ms": Int = Some("25"), Any, ReadOnly, NoEffect, "KRaft only: time writes gather before they are flushed.";
    "controller.quorum.bootstrap.servers": List = Some(""), Any, ReadOnly, NoEffect, "KRaft only: endpoints from which the quorum is discovered.";
    "controller.quorum.election.backoff.max.ms": Int = Some("1000"), Any, ReadOnly, NoEffect, "KRaft only: longest wait before a new election.";
    "controller.quorum.election.timeout.ms": Int = Some("1000"), Any, ReadOnly, NoEffect, "KRaft only: time without leader before an election starts.";
    "controller.quorum.fetch.timeout.ms": Int = Some("2000"), Any, ReadOnly, NoEffect, "KRaft only: time without fetch after which a leader or voter gives up.";
    "controller.quorum.request.timeout.ms": Int = Some("2000"), Any, ReadOnly, NoEffect, "KRaft only: time to wait for an answer of the quorum.";
    "controller.quorum.retry.backoff.ms": Int = Some("20"), Any, ReadOnly, NoEffect, "KRaft only: pause before a request to the quorum is repeated.";
    "controller.quorum.voters": List = Some(""), Any, ReadOnly, NoEffect, "KRaft only: the voters as id@host:port.";
    "controller.quota.window.num": Int = Some("11"), AtLeast(1), ReadOnly, NotYet, "Samples kept for the quota on partition changes.";
    "controller.quota.window.size.seconds": Int = Some("1"), AtLeast(1), ReadOnly, NotYet, "Seconds covered by one sample of the quota on partition changes.";
    "controller.socket.timeout.ms": Int = Some("30000"), Any, ReadOnly, Acted, "Time the controller waits for an answer of a broker.";
    "create.topic.policy.class.name": Class = None, Any, ReadOnly, Refused, "Class that may veto the creation of topics.";
    "default.replication.factor": Int = Some("1"), Any, ReadOnly, Acted, "Replicas of a topic that is created without saying how many.";
    "delegation.token.expiry.check.interval.ms": Long = Some("3600000"), AtLeast(1), ReadOnly, NotYet, "Time between removals of expired delegation tokens.";
    "delegation.token.expiry.time.ms": Long = Some("86400000"), AtLeast(1), ReadOnly, NotYet, "Validity of a delegation token before it must be renewed.";
    "delegation.token.master.key": Password = None, Any, ReadOnly, NotYet, "Old name of delegation.token.secret.key.";
    "delegation.token.max.lifetime.ms": Long = Some("604800000"), AtLeast(1), ReadOnly, NotYet, "Age beyond which a delegation token cannot be renewed.";
    "delegation.token.secret.key": Password = None, Any, ReadOnly, NotYet, "Key that signs delegation tokens; the same on all brokers.";
    "delete.records.purgatory.purge.interval.requests": Int = Some("1"), Any, ReadOnly, NoEffect, "Requests between clean-ups of waiting DeleteRecords; waiting ones are dropped at once here.";
    "delete.topic.enable": Boolean = Some("true"), Any, ReadOnly, Acted, "Whether topics can be deleted.";
    "early.start.listeners": String = None, Any, ReadOnly, NoEffect, "Listeners opened before the authorizer is ready.";
    "eligible.leader.replicas.enable": Boolean = Some("false"), Any, ReadOnly, NoEffect, "KRaft only: keep eligible leader replicas.";
    "fetch.max.bytes": Int = Some("57671680"), AtLeast(1024), ReadOnly, Acted, "Most bytes a broker answers to one fetch.";
    "fetch.purgatory.purge.interval.requests": Int = Some("1000"), Any, ReadOnly, NoEffect, "Requests between clean-ups of waiting fetches; waiting ones are dropped at once here.";
    "group.consumer.assignors": List = Some("org.apache.kafka.coordinator.group.assignor.UniformAssignor,org.apache.kafka.coordinator.group.assignor.RangeAssignor"), Any, ReadOnly, NoEffect, "New consumer protocol, KRaft only: assignors on the broker.";
    "group.consumer.heartbeat.interval.ms": Int = Some("5000"), AtLeast(1), ReadOnly, NoEffect, "New consumer protocol, KRaft only: heartbeat interval given to members.";
    "group.consumer.max.heartbeat.interval.ms": Int = Some("15000"), AtLeast(1), ReadOnly, NoEffect, "New consumer protocol, KRaft only: longest heartbeat interval.";
    "group.consumer.max.session.timeout.ms": Int = Some("60000"), AtLeast(1), ReadOnly, NoEffect, "New consumer protocol, KRaft only: longest session timeout.";
    "group.consumer.max.size": Int = Some("2147483647"), AtLeast(1), ReadOnly, NoEffect, "New consumer protocol, KRaft only: most members of a group.";
    "group.consumer.migration.policy": String = Some("disabled"), OneOfIgnoringCase(&["DISABLED", "DOWNGRADE", "UPGRADE", "BIDIRECTIONAL"]), ReadOnly, NoEffect internal, "New consumer protocol, KRaft only: which groups may change their protocol.";
    "group.consumer.min.heartbeat.interval.ms": Int = Some("5000"), AtLeast(1), ReadOnly, NoEffect, "New consumer protocol, KRaft only: shortest heartbeat interval.";
    "group.consumer.min.session.timeout.ms": Int = Some("45000"), AtLeast(1), ReadOnly, NoEffect, "New consumer protocol, KRaft only: shortest session timeout.";
    "group.consumer.session.timeout.ms": Int = Some("45000"), AtLeast(1), ReadOnly, NoEffect, "New consumer protocol, KRaft only: session timeout of members.";
    "group.coordinator.append.linger.ms": Int = Some("10"), AtLeast(0), ReadOnly, NoEffect, "New coordinator, KRaft only: time writes gather before they are appended.";
    "group.coordinator.new.enable": Boolean = Some("false"), Any, ReadOnly, NoEffect internal, "New coordinator, KRaft only: whether it runs.";
    "group.coordinator.rebalance.protocols": List = Some("classic"), EachOneOf(&["consumer", "classic", "share", "unknown"]), ReadOnly, Acted, "Rebalance protocols offered; only classic exists in ZooKeeper mode.";
    "group.coordinator.threads": Int = Some("1"), AtLeast(1), ReadOnly, NoEffect, "New coordinator, KRaft only: its threads.";
    "group.initial.rebalance.delay.ms": Int = Some("3000"), Any, ReadOnly, Acted, "How long the first rebalance of an empty group waits for more members.";
    "group.max.session.timeout.ms": Int = Some("1800000"), Any, ReadOnly, Acted, "Longest session timeout a member may ask for.";
    "group.max.size": Int = Some("2147483647"), AtLeast(1), ReadOnly, Acted, "Most members of a group.";
    "group.min.session.timeout.ms": Int = Some("6000"), Any, ReadOnly, Acted, "Shortest session timeout a member may ask for.";
    "group.share.delivery.count.limit": Int = Some("5"), Between(2, 10), ReadOnly, NoEffect, "Share groups, KRaft only: deliveries of a record before it is given up.";
    "group.share.enable": Boolean = Some("false"), Any, ReadOnly, NoEffect internal, "Share groups, KRaft only: whether they exist.";
    "group.share.heartbeat.interval.ms": Int = Some("5000"), AtLeast(1), ReadOnly, NoEffect, "Share groups, KRaft only: heartbeat interval given to members.";
    "group.share.max.groups": Short = Some("10"), Between(1, 100), ReadOnly, NoEffect, "Share groups, KRaft only: most groups.";
    "group.share.max.heartbeat.interval.ms": Int = Some("15000"), AtLeast(1), ReadOnly, NoEffect, "Share groups, KRaft only: longest heartbeat interval.";
    "group.share.max.record.lock.duration.ms": Int = Some("60000"), Between(30000, 3_600_000), ReadOnly, NoEffect, "Share groups, KRaft only: longest lock on a record.";
    "group.share.max.session.timeout.ms": Int = Some("60000"), AtLeast(1), ReadOnly, NoEffect, "Share groups, KRaft only: longest session timeout.";
    "group.share.max.size": Short = Some("200"), Between(10, 1000), ReadOnly, NoEffect, "Share groups, KRaft only: most members of a group.";
    "group.share.min.heartbeat.interval.ms": Int = Some("5000"), AtLeast(1), ReadOnly, NoEffect, "Share groups, KRaft only: shortest heartbeat interval.";
    "group.share.min.record.lock.duration.ms": Int = Some("15000"), Between(1000, 30000), ReadOnly, NoEffect, "Share groups, KRaft only: shortest lock on a record.";
    "group.share.min.session.timeout.ms": Int = Some("45000"), AtLeast(1), ReadOnly, NoEffect, "Share groups, KRaft only: shortest session timeout.";
    "group.share.partition.max.record.locks": Int = Some("200"), Between(100, 10000), ReadOnly, NoEffect, "Share groups, KRaft only: most locked records of a partition.";
    "group.share.record.lock.duration.ms": Int = Some("30000"), Between(1000, 60000), ReadOnly, NoEffect, "Share groups, KRaft only: lock on a record.";
    "group.share.session.timeout.ms": Int = Some("45000"), AtLeast(1), ReadOnly, NoEffect, "Share groups, KRaft only: session timeout of members.";
    "initial.broker.registration.timeout.ms": Int = Some("60000"), Any, ReadOnly, NoEffect, "KRaft only: time to register before a starting broker gives up.";
    "inter.broker.listener.name": String = None, Any, ReadOnly, Acted, "Listener that brokers use among themselves.";
    "inter.broker.protocol.version": String = Some("3.9-IV0"), MetadataVersion, ReadOnly, Acted, "Oldest version of the protocol between brokers that the whole cluster speaks.";
    "kafka.metrics.polling.interval.secs": Int = Some("10"), AtLeast(1), ReadOnly, NoEffect, "Time between two reports of the reporters in kafka.metrics.reporters.";
    "kafka.metrics.reporters": List = Some(""), Any, ReadOnly, Refused, "Classes that report the older kind of metrics.";
    "leader.imbalance.check.interval.seconds": Long = Some("300"), AtLeast(1), ReadOnly, Acted, "Time between checks whether leaders are where they are preferred.";
    "leader.imbalance.per.broker.percentage": Int = Some("10"), Any, ReadOnly, Acted, "Share of misplaced leaders at which the controller moves them back.";
    "listener.security.protocol.map": String = Some("SASL_SSL:SASL_SSL,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT"), Any, PerBroker, Acted, "Security protocol of each listener name.";
    "listeners": String = Some("PLAINTEXT://:9092"), Any, PerBroker, Acted, "Addresses to bind, each as name://host:port.";
    "log.cleaner.backoff.ms": Long = Some("15000"), AtLeast(0), ClusterWide, Acted, "Pause of a cleaner that finds nothing to clean.";
    "log.cleaner.dedupe.buffer.size": Long = Some("134217728"), Any, ClusterWide, Acted, "Memory of all cleaners for the keys they have seen.";
    "log.cleaner.delete.retention.ms": Long = Some("86400000"), AtLeast(0), ClusterWide, Acted, "How long a tombstone stays readable in a compacted topic.";
    "log.cleaner.enable": Boolean = Some("true"), Any, ReadOnly, Acted, "Whether compacted topics are compacted.";
    "log.cleaner.io.buffer.load.factor": Double = Some("0.9"), Any, ClusterWide, Acted, "How full the cleaner's memory for keys may get.";
    "log.cleaner.io.buffer.size": Int = Some("524288"), AtLeast(0), ClusterWide, Acted, "Memory of all cleaners for reading and writing.";
    "log.cleaner.io.max.bytes.per.second": Double = Some("1.7976931348623157E308"), Any, ClusterWide, Acted, "Throttle of the cleaners, reads and writes together.";
    "log.cleaner.max.compaction.lag.ms": Long = Some("9223372036854775807"), AtLeast(1), ClusterWide, Acted, "Longest time a record may stay uncompacted.";
    "log.cleaner.min.cleanable.ratio": Double = Some("0.5"), BetweenDoubles(0.0, 1.0), ClusterWide, Acted, "Share of uncompacted bytes at which a log is compacted.";
    "log.cleaner.min.compaction.lag.ms": Long = Some("0"), AtLeast(0), ClusterWide, Acted, "Shortest time a record stays uncompacted.";
    "log.cleaner.threads": Int = Some("1"), AtLeast(0), ClusterWide, Acted, "Threads that compact.";
    "log.cleanup.policy": List = Some("delete"), EachOneOf(&["compact", "delete"]), ClusterWide, Acted, "What happens to old records: delete, compact or both.";
    "log.dir": String = Some("/tmp/kafka-logs"), Any, ReadOnly, Acted, "Log directory, where log.dirs is not set.";
    "log.dir.failure.timeout.ms": Long = Some("30000"), AtLeast(1), ReadOnly, NoEffect, "KRaft only: time to tell the controller of a failed log directory.";
    "log.dirs": String = None, Any, ReadOnly, Acted, "Log directories, separated by commas.";
    "log.flush.interval.messages": Long = Some("9223372036854775807"), AtLeast(1), ClusterWide, Acted, "Records appended to a partition before it is flushed to disk.";
    "log.flush.interval.ms": Long = None, Any, ClusterWide, Acted, "Time appended records may wait for a flush; the scheduler interval when unset.";
    "log.flush.offset.checkpoint.interval.ms": Int = Some("60000"), AtLeast(0), ReadOnly, Acted, "Time between writes of the recovery points.";
    "log.flush.scheduler.interval.ms": Long = Some("9223372036854775807"), Any, ReadOnly, Acted, "Time between checks whether a log must be flushed.";
    "log.flush.start.offset.checkpoint.interval.ms": Int = Some("60000"), AtLeast(0), ReadOnly, Acted, "Time between writes of the log start offsets.";
    "log.index.interval.bytes": Int = Some("4096"), AtLeast(0), ClusterWide, Acted, "Bytes of records between two entries of the offset index.";
    "log.index.size.max.bytes": Int = Some("10485760"), AtLeast(4), ClusterWide, Acted, "Largest offset index of a segment.";
    "log.initial.task.delay.ms": Long = Some("30000"), AtLeast(0), ReadOnly, Acted internal, "Time after start before the periodic work on logs begins.";
    "log.local.retention.bytes": Long = Some("-2"), AtLeast(-2), ClusterWide, NotYet, "Tiered storage: bytes kept on local disk; -2 means retention.bytes.";
    "log.local.retention.ms": Long = Some("-2"), AtLeast(-2), ClusterWide, NotYet, "Tiered storage: age kept on local disk; -2 means retention.ms.";
    "log.message.downconversion.enable": Boolean = Some("true"), Any, ClusterWide, Acted, "Whether old consumers are served by converting newer batches.";
    "log.message.format.version": String = Some("3.0-IV1"), MetadataVersion, ReadOnly, Acted, "Oldest message format to write; ignored from inter-broker protocol 3.0 on.";
    "log.message.timestamp.after.max.ms": Long = Some("9223372036854775807"), AtLeast(0), ClusterWide, Acted, "How far a producer's timestamp may lie in the future.";
    "log.message.timestamp.before.max.ms": Long = Some("9223372036854775807"), AtLeast(0), ClusterWide, Acted, "How far a producer's timestamp may lie in the past.";
    "log.message.timestamp.difference.max.ms": Long = Some("9223372036854775807"), AtLeast(0), ClusterWide, Acted, "Old setting for both bounds of a producer's timestamp.";
    "log.message.timestamp.type": String = Some("CreateTime"), OneOf(&["CreateTime", "LogAppendTime"]), ClusterWide, Acted, "Whether records carry the producer's or the broker's time.";
    "log.preallocate": Boolean = Some("false"), Any, ClusterWide, Acted, "Whether a new segment takes its full size at once.";
    "log.retention.bytes": Long = Some("-1"), Any, ClusterWide, Acted, "Bytes a partition may keep; negative keeps all.";
    "log.retention.check.interval.ms": Long = Some("300000"), AtLeast(1), ReadOnly, Acted, "Time between checks for records to delete.";
    "log.retention.hours": Int = Some("168"), Any, ReadOnly, Acted, "Hours a record is kept, where neither .ms nor .minutes is set.";
    "log.retention.minutes": Int = None, Any, ReadOnly, Acted, "Minutes a record is kept, where .ms is not set.";
    "log.retention.ms": Long = None, Any, ClusterWide, Acted, "Milliseconds a record is kept; -1 for ever.";
    "log.roll.hours": Int = Some("168"), AtLeast(1), ReadOnly, Acted, "Hours before a new segment starts, where .ms is not set.";
    "log.roll.jitter.hours": Int = Some("0"), AtLeast(0), ReadOnly, Acted, "Most hours taken off the roll time at random, where .ms is not set.";
    "log.roll.jitter.ms": Long = None, Any, ClusterWide, Acted, "Most milliseconds taken off the roll time at random.";
    "log.roll.ms": Long = None, Any, ClusterWide, Acted, "Milliseconds before a new segment starts.";
    "log.segment.bytes": Int = Some("1073741824"), AtLeast(14), ClusterWide, Acted, "Largest segment.";
    "log.segment.delete.delay.ms": Long = Some("60000"), AtLeast(0), ClusterWide, Acted, "Time a deleted segment's file stays on disk.";
    "max.connection.creation.rate": Int = Some("2147483647"), AtLeast(0), ClusterWide, Acted, "New connections a second.";
    "max.connections": Int = Some("2147483647"), AtLeast(0), ClusterWide, Acted, "Most connections of the broker.";
    "max.connections.per.ip": Int = Some("2147483647"), AtLeast(0), ClusterWide, Acted, "Most connections from one address.";
    "max.connections.per.ip.overrides": String = Some(""), Any, ClusterWide, Acted, "Other limits for single hosts, as host:count,host:count.";
    "max.incremental.fetch.session.cache.slots": Int = Some("1000"), AtLeast(0), ReadOnly, Acted, "Most fetch sessions kept.";
    "max.request.partition.size.limit": Int = Some("2000"), AtLeast(1), ReadOnly, NotYet, "Most partitions in one DescribeTopicPartitions answer.";
    "message.max.bytes": Int = Some("1048588"), AtLeast(0), ClusterWide, Acted, "Largest batch a producer may send.";
    "metadata.log.dir": String = None, Any, ReadOnly, NoEffect, "KRaft only: directory of the metadata log.";
    "metadata.log.max.record.bytes.between.snapshots": Long = Some("20971520"), AtLeast(1), ReadOnly, NoEffect, "KRaft only: bytes of metadata between snapshots.";
    "metadata.log.max.snapshot.interval.ms": Long = Some("3600000"), AtLeast(0), ReadOnly, NoEffect, "KRaft only: time between snapshots.";
    "metadata.log.segment.bytes": Int = Some("1073741824"), AtLeast(12), ReadOnly, NoEffect, "KRaft only: largest segment of the metadata log.";
    "metadata.log.segment.min.bytes": Int = Some("8388608"), AtLeast(12), ReadOnly, NoEffect internal, "KRaft only: smallest segment of the metadata log.";
    "metadata.log.segment.ms": Long = Some("604800000"), Any, ReadOnly, NoEffect, "KRaft only: time before a new segment of the metadata log starts.";
    "metadata.max.idle.interval.ms": Int = Some("500"), AtLeast(0), ReadOnly, NoEffect, "KRaft only: time between no-op records.";
    "metadata.max.retention.bytes": Long = Some("104857600"), Any, ReadOnly, NoEffect, "KRaft only: bytes of metadata kept.";
    "metadata.max.retention.ms": Long = Some("604800000"), Any, ReadOnly, NoEffect, "KRaft only: age of metadata kept.";
    "metric.reporters": List = Some(""), Any, ClusterWide, Refused, "Classes that report metrics.";
    "metrics.num.samples": Int = Some("2"), AtLeast(1), ReadOnly, NotYet, "Samples a metric is computed from.";
    "metrics.recording.level": String = Some("INFO"), Any, ReadOnly, NotYet, "How detailed metrics are.";
    "metrics.sample.window.ms": Long = Some("30000"), AtLeast(1), ReadOnly, NotYet, "Time covered by one sample of a metric.";
    "min.insync.replicas": Int = Some("1"), AtLeast(1), ClusterWide, Acted, "In-sync replicas that an acks=all produce needs.";
    "node.id": Int = Some("-1"), Any, ReadOnly, Acted, "Another name for broker.id.";
    "num.io.threads": Int = Some("8"), AtLeast(1), ClusterWide, Acted, "Threads that do work which may wait for a disk; two at the least.";
    "num.network.threads": Int = Some("3"), AtLeast(1), ClusterWide, Acted, "Threads that serve connections.";
    "num.partitions": Int = Some("1"), AtLeast(1), ReadOnly, Acted, "Partitions of a topic that is created without saying how many.";
    "num.recovery.threads.per.data.dir": Int = Some("1"), AtLeast(1), ClusterWide, Acted, "Threads that load and recover the logs of one directory.";
    "num.replica.alter.log.dirs.threads": Int = None, Any, ReadOnly, Acted, "Threads that move replicas between log directories; as many as directories when unset.";
    "num.replica.fetchers": Int = Some("1"), Any, ClusterWide, Acted, "Fetchers for each broker that is followed.";
    "offset.metadata.max.bytes": Int = Some("4096"), Any, ReadOnly, Acted, "Largest note that may be committed with an offset.";
    "offsets.commit.required.acks": Short = Some("-1"), Any, ReadOnly, Acted, "Acknowledgements an offset commit needs; -1 is the only sensible value.";
    "offsets.commit.timeout.ms": Int = Some("5000"), AtLeast(1), ReadOnly, Acted, "Time an offset commit may take.";
    "offsets.load.buffer.size": Int = Some("5242880"), AtLeast(1), ReadOnly, Acted, "Bytes read at once when groups are loaded.";
    "offsets.retention.check.interval.ms": Long = Some("600000"), AtLeast(1), ReadOnly, Acted, "Time between checks for expired offsets.";
    "offsets.retention.minutes": Int = Some("10080"), AtLeast(1), ReadOnly, Acted, "Minutes an offset outlives its group.";
    "offsets.topic.compression.codec": Int = Some("0"), Any, ReadOnly, Acted, "Codec of the offsets topic: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.";
    "offsets.topic.num.partitions": Int = Some("50"), AtLeast(1), ReadOnly, Acted, "Partitions of the offsets topic.";
    "offsets.topic.replication.factor": Short = Some("3"), AtLeast(1), ReadOnly, Acted, "Replicas of the offsets topic.";
    "offsets.topic.segment.bytes": Int = Some("104857600"), AtLeast(1), ReadOnly, Acted, "Largest segment of the offsets topic.";
    "password.encoder.cipher.algorithm": String = Some("AES/CBC/PKCS5Padding"), Any, ReadOnly, NotYet, "Cipher of stored passwords.";
    "password.encoder.iterations": Int = Some("4096"), AtLeast(1024), ReadOnly, NotYet, "Iterations of the key derivation of stored passwords.";
    "password.encoder.key.length": Int = Some("128"), AtLeast(8), ReadOnly, NotYet, "Key length of stored passwords.";
    "password.encoder.keyfactory.algorithm": String = None, Any, ReadOnly, NotYet, "Key derivation of stored passwords.";
    "password.encoder.old.secret": Password = None, Any, ReadOnly, NotYet, "Secret with which stored passwords were encrypted before.";
    "password.encoder.secret": Password = None, Any, ReadOnly, NotYet, "Secret with which stored passwords are encrypted.";
    "principal.builder.class": Class = Some("org.apache.kafka.common.security.authenticator.DefaultKafkaPrincipalBuilder"), Any, PerBroker, Refused, "Class that names the principal of a connection.";
    "process.roles": List = Some(""), EachOneOf(&["broker", "controller"]), ReadOnly, Refused, "KRaft roles; must be empty in ZooKeeper mode.";
    "producer.id.expiration.check.interval.ms": Int = Some("600000"), AtLeast(1), ReadOnly, Acted internal, "Time between checks for expired producers.";
    "producer.id.expiration.ms": Int = Some("86400000"), AtLeast(1), ClusterWide, Acted, "Time after which the state of an idle producer is dropped.";
    "producer.purgatory.purge.interval.requests": Int = Some("1000"), Any, ReadOnly, NoEffect, "Requests between clean-ups of waiting produces; waiting ones are dropped at once here.";
    "queued.max.request.bytes": Long = Some("-1"), Any, ReadOnly, Acted, "Most bytes that requests and untaken answers hold over all connections; 256 MiB unless positive.";
    "queued.max.requests": Int = Some("500"), AtLeast(1), ReadOnly, Acted, "Most requests waiting to be handled.";
    "quota.window.num": Int = Some("11"), AtLeast(1), ReadOnly, NotYet, "Samples kept for client quotas.";
    "quota.window.size.seconds": Int = Some("1"), AtLeast(1), ReadOnly, NotYet, "Seconds covered by one sample of client quotas.";
    "remote.fetch.max.wait.ms": Int = Some("500"), AtLeast(1), ClusterWide, NotYet, "Tiered storage: time a fetch waits for remote data.";
    "remote.log.index.file.cache.total.size.bytes": Long = Some("1073741824"), AtLeast(1), ClusterWide, NotYet, "Tiered storage: disk for cached remote indexes.";
    "remote.log.manager.copier.thread.pool.size": Int = Some("-1"), PoolSize, ReadOnly, NotYet, "Tiered storage: threads that copy segments out.";
    "remote.log.manager.copy.max.bytes.per.second": Long = Some("9223372036854775807"), AtLeast(1), ClusterWide, NotYet, "Tiered storage: throttle of copies out.";
    "remote.log.manager.copy.quota.window.num": Int = Some("11"), AtLeast(1), ReadOnly, NotYet, "Tiered storage: samples kept for the throttle of copies.";
    "remote.log.manager.copy.quota.window.size.seconds": Int = Some("1"), AtLeast(1), ReadOnly, NotYet, "Tiered storage: seconds covered by one sample of copies.";
    "remote.log.manager.expiration.thread.pool.size": Int = Some("-1"), PoolSize, ReadOnly, NotYet, "Tiered storage: threads that expire remote segments.";
    "remote.log.manager.fetch.max.bytes.per.second": Long = Some("9223372036854775807"), AtLeast(1), ClusterWide, NotYet, "Tiered storage: throttle of reads.";
    "remote.log.manager.fetch.quota.window.num": Int = Some("11"), AtLeast(1), ReadOnly, NotYet, "Tiered storage: samples kept for the throttle of reads.";
    "remote.log.manager.fetch.quota.window.size.seconds": Int = Some("1"), AtLeast(1), ReadOnly, NotYet, "Tiered storage: seconds covered by one sample of reads.";
    "remote.log.manager.task.interval.ms": Long = Some("30000"), AtLeast(1), ReadOnly, NotYet, "Tiered storage: time between rounds of copying and expiring.";
    "remote.log.manager.task.retry.backoff.max.ms": Long = Some("30000"), AtLeast(1), ReadOnly, NotYet internal, "Tiered storage: longest pause after a failure.";
    "remote.log.manager.task.retry.backoff.ms": Long = Some("500"), AtLeast(1), ReadOnly, NotYet internal, "Tiered storage: first pause after a failure.";
    "remote.log.manager.task.retry.jitter": Double = Some("0.2"), BetweenDoubles(0.0, 0.5), ReadOnly, NotYet internal, "Tiered storage: random part of the pause after a failure.";
    "remote.log.manager.thread.pool.size": Int = Some("10"), AtLeast(1), ReadOnly, NotYet, "Tiered storage: threads for tasks.";
    "remote.log.metadata.custom.metadata.max.bytes": Int = Some("128"), AtLeast(0), ReadOnly, NotYet, "Tiered storage: largest custom metadata of a segment.";
    "remote.log.metadata.manager.class.name": String = Some("org.apache.kafka.server.log.remote.metadata.storage.TopicBasedRemoteLogMetadataManager"), NonEmpty, ReadOnly, NotYet, "Tiered storage: class that keeps metadata of remote segments.";
    "remote.log.metadata.manager.class.path": String = None, Any, ReadOnly, NotYet, "Tiered storage: where that class is found.";
    "remote.log.metadata.manager.impl.prefix": String = Some("rlmm.config."), NonEmpty, ReadOnly, NotYet, "Tiered storage: prefix of the metadata manager's own settings.";
    "remote.log.metadata.manager.listener.name": String = None, NonEmpty, ReadOnly, NotYet, "Tiered storage: listener that the metadata manager uses.";
    "remote.log.reader.max.pending.tasks": Int = Some("100"), AtLeast(1), ReadOnly, NotYet, "Tiered storage: most reads waiting.";
    "remote.log.reader.threads": Int = Some("10"), AtLeast(1), ReadOnly, NotYet, "Tiered storage: threads that read.";
    "remote.log.storage.manager.class.name": String = None, NonEmpty, ReadOnly, NotYet, "Tiered storage: class that stores segments.";
    "remote.log.storage.manager.class.path": String = None, Any, ReadOnly, NotYet, "Tiered storage: where that class is found.";
    "remote.log.storage.manager.impl.prefix": String = Some("rsm.config."), NonEmpty, ReadOnly, NotYet, "Tiered storage: prefix of the storage manager's own settings.";
    "remote.log.storage.system.enable": Boolean = Some("false"), Any, ReadOnly, Refused, "Tiered storage: whether it exists on this broker.";
    "replica.fetch.backoff.ms": Int = Some("1000"), AtLeast(0), ReadOnly, Acted, "Pause of a follower after a failed fetch.";
    "replica.fetch.max.bytes": Int = Some("1048576"), AtLeast(0), ReadOnly, Acted, "Bytes a follower fetches of one partition.";
    "replica.fetch.min.bytes": Int = Some("1"), Any, ReadOnly, Acted, "Bytes for which a follower's fetch waits.";
    "replica.fetch.response.max.bytes": Int = Some("10485760"), AtLeast(0), ReadOnly, Acted, "Bytes a follower fetches at once.";
    "replica.fetch.wait.max.ms": Int = Some("500"), Any, ReadOnly, Acted, "Longest wait of a follower's fetch.";
    "replica.high.watermark.checkpoint.interval.ms": Long = Some("5000"), Any, ReadOnly, Acted, "Time between writes of the high watermarks.";
    "replica.lag.time.max.ms": Long = Some("30000"), Any, ReadOnly, Acted, "Time a follower may lag before it leaves the ISR.";
    "replica.selector.class": String = None, Any, ReadOnly, Acted, "Class that picks the replica a consumer reads from; the leader when unset.";
    "replica.socket.receive.buffer.bytes": Int = Some("65536"), Any, ReadOnly, Acted, "Receive buffer of a follower's connection.";
    "replica.socket.timeout.ms": Int = Some("30000"), Any, ReadOnly, Acted, "Time a follower waits for its leader's answer.";
    "replication.quota.window.num": Int = Some("11"), AtLeast(1), ReadOnly, Acted, "Samples kept for replication quotas.";
    "replication.quota.window.size.seconds": Int = Some("1"), AtLeast(1), ReadOnly, Acted, "Seconds covered by one sample of replication quotas.";
    "request.timeout.ms": Int = Some("30000"), Any, ReadOnly, Acted, "Time an internal request may take.";
    "reserved.broker.max.id": Int = Some("1000"), AtLeast(0), ReadOnly, Acted, "Largest id that may be configured; generated ids lie above it.";
    "sasl.client.callback.handler.class": Class = None, Any, ReadOnly, NotYet, "SASL: class of the client's callbacks.";
    "sasl.enabled.mechanisms": List = Some("GSSAPI"), Any, PerBroker, NotYet, "SASL: mechanisms offered.";
    "sasl.jaas.config": Password = None, Any, PerBroker, NotYet, "SASL: login context in JAAS form.";
    "sasl.kerberos.kinit.cmd": String = Some("/usr/bin/kinit"), Any, PerBroker, NotYet, "Kerberos: path of kinit.";
    "sasl.kerberos.min.time.before.relogin": Long = Some("60000"), Any, PerBroker, NotYet, "Kerberos: shortest time between logins.";
    "sasl.kerberos.principal.to.local.rules": List = Some("DEFAULT"), Any, PerBroker, NotYet, "Kerberos: rules that turn principals into short names.";
    "sasl.kerberos.service.name": String = None, Any, PerBroker, NotYet, "Kerberos: name of the service.";
    "sasl.kerberos.ticket.renew.jitter": Double = Some("0.05"), Any, PerBroker, NotYet, "Kerberos: random part of the renewal time.";
    "sasl.kerberos.ticket.renew.window.factor": Double = Some("0.8"), Any, PerBroker, NotYet, "Kerberos: share of a ticket's life after which it is renewed.";
    "sasl.login.callback.handler.class": Class = None, Any, ReadOnly, NotYet, "SASL: class of the login's callbacks.";
    "sasl.login.class": Class = None, Any, ReadOnly, NotYet, "SASL: class that logs in.";
    "sasl.login.connect.timeout.ms": Int = None, Any, ReadOnly, NotYet, "OAuth: time to connect to the provider.";
    "sasl.login.read.timeout.ms": Int = None, Any, ReadOnly, NotYet, "OAuth: time to wait for the provider.";
    "sasl.login.refresh.buffer.seconds": Short = Some("300"), Any, PerBroker, NotYet, "OAuth: time before expiry at which a login is refreshed.";
    "sasl.login.refresh.min.period.seconds": Short = Some("60"), Any, PerBroker, NotYet, "OAuth: shortest time between refreshes.";
    "sasl.login.refresh.window.factor": Double = Some("0.8"), Any, PerBroker, NotYet, "OAuth: share of a login's life after which it is refreshed.";
    "sasl.login.refresh.window.jitter": Double = Some("0.05"), Any, PerBroker, NotYet, "OAuth: random part of the refresh time.";
    "sasl.login.retry.backoff.max.ms": Long = Some("10000"), Any, ReadOnly, NotYet, "OAuth: longest pause between attempts.";
    "sasl.login.retry.backoff.ms": Long = Some("100"), Any, ReadOnly, NotYet, "OAuth: first pause between attempts.";
    "sasl.mechanism.controller.protocol": String = Some("GSSAPI"), Any, ReadOnly, NoEffect, "KRaft only: SASL mechanism towards controllers.";
    "sasl.mechanism.inter.broker.protocol": String = Some("GSSAPI"), Any, PerBroker, NotYet, "SASL: mechanism that brokers use among themselves.";
    "sasl.oauthbearer.clock.skew.seconds": Int = Some("30"), Any, ReadOnly, NotYet, "OAuth: tolerated difference of clocks.";
    "sasl.oauthbearer.expected.audience": List = None, Any, ReadOnly, NotYet, "OAuth: audiences accepted.";
    "sasl.oauthbearer.expected.issuer": String = None, Any, ReadOnly, NotYet, "OAuth: issuer accepted.";
    "sasl.oauthbearer.jwks.endpoint.refresh.ms": Long = Some("3600000"), Any, ReadOnly, NotYet, "OAuth: time between refreshes of the keys.";
    "sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms": Long = Some("10000"), Any, ReadOnly, NotYet, "OAuth: longest pause between attempts to get the keys.";
    "sasl.oauthbearer.jwks.endpoint.retry.backoff.ms": Long = Some("100"), Any, ReadOnly, NotYet, "OAuth: first pause between attempts to get the keys.";
    "sasl.oauthbearer.jwks.endpoint.url": String = None, Any, ReadOnly, NotYet, "OAuth: where the keys are.";
    "sasl.oauthbearer.scope.claim.name": String = Some("scope"), Any, ReadOnly, NotYet, "OAuth: claim that holds the scope.";
    "sasl.oauthbearer.sub.claim.name": String = Some("sub"), Any, ReadOnly, NotYet, "OAuth: claim that holds the subject.";
    "sasl.oauthbearer.token.endpoint.url": String = None, Any, ReadOnly, NotYet, "OAuth: where tokens are.";
    "sasl.server.callback.handler.class": Class = None, Any, ReadOnly, NotYet, "SASL: class of the server's callbacks.";
    "sasl.server.max.receive.size": Int = Some("524288"), Any, ReadOnly, NotYet, "SASL: largest message before authentication.";
    "security.inter.broker.protocol": String = Some("PLAINTEXT"), OneOf(&["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]), ReadOnly, Acted, "Security protocol that brokers use among themselves, where no listener name is given.";
    "security.providers": String = None, Any, ReadOnly, Refused, "Classes that provide security algorithms.";
    "server.max.startup.time.ms": Long = Some("9223372036854775807"), AtLeast(0), ReadOnly, NoEffect internal, "KRaft only: time to start.";
    "socket.connection.setup.timeout.max.ms": Long = Some("30000"), Any, ReadOnly, NotYet, "Longest time to establish a connection, after failures.";
    "socket.connection.setup.timeout.ms": Long = Some("10000"), Any, ReadOnly, NotYet, "Time to establish a connection.";
    "socket.listen.backlog.size": Int = Some("50"), AtLeast(1), ReadOnly, Acted, "Connections waiting to be accepted.";
    "socket.receive.buffer.bytes": Int = Some("102400"), Any, ReadOnly, Acted, "Receive buffer of connections; -1 leaves it to the system.";
    "socket.request.max.bytes": Int = Some("104857600"), AtLeast(1), ReadOnly, Acted, "Largest request.";
    "socket.send.buffer.bytes": Int = Some("102400"), Any, ReadOnly, Acted, "Send buffer of connections; -1 leaves it to the system.";
    "ssl.allow.dn.changes": Boolean = Some("false"), Any, ReadOnly, NotYet, "TLS: whether a new certificate may name another subject.";
    "ssl.allow.san.changes": Boolean = Some("false"), Any, ReadOnly, NotYet, "TLS: whether a new certificate may name other hosts.";
    "ssl.cipher.suites": List = Some(""), Any, PerBroker, NotYet, "TLS: cipher suites.";
    "ssl.client.auth": String = Some("none"), OneOf(&["required", "requested", "none"]), PerBroker, NotYet, "TLS: whether clients must show a certificate.";
    "ssl.enabled.protocols": List = Some("TLSv1.2,TLSv1.3"), Any, PerBroker, NotYet, "TLS: versions.";
    "ssl.endpoint.identification.algorithm": String = Some("https"), Any, PerBroker, NotYet, "TLS: how host names are checked.";
    "ssl.engine.factory.class": Class = None, Any, PerBroker, NotYet, "TLS: class that makes engines.";
    "ssl.key.password": Password = None, Any, PerBroker, NotYet, "TLS: password of the private key.";
    "ssl.keymanager.algorithm": String = Some("SunX509"), Any, PerBroker, NotYet, "TLS: algorithm of the key manager.";
    "ssl.keystore.certificate.chain": Password = None, Any, PerBroker, NotYet, "TLS: certificate chain as PEM.";
    "ssl.keystore.key": Password = None, Any, PerBroker, NotYet, "TLS: private key as PEM.";
    "ssl.keystore.location": String = None, Any, PerBroker, NotYet, "TLS: file of the key store.";
    "ssl.keystore.password": Password = None, Any, PerBroker, NotYet, "TLS: password of the key store.";
    "ssl.keystore.type": String = Some("JKS"), Any, PerBroker, NotYet, "TLS: format of the key store.";
    "ssl.principal.mapping.rules": String = Some("DEFAULT"), Any, ReadOnly, NotYet, "TLS: rules that turn certificate names into principals.";
    "ssl.protocol": String = Some("TLSv1.3"), Any, PerBroker, NotYet, "TLS: version to prefer.";
    "ssl.provider": String = None, Any, PerBroker, NotYet, "TLS: provider of the implementation.";
    "ssl.secure.random.implementation": String = None, Any, PerBroker, NotYet, "TLS: source of random numbers.";
    "ssl.trustmanager.algorithm": String = Some("PKIX"), Any, PerBroker, NotYet, "TLS: algorithm of the trust manager.";
    "ssl.truststore.certificates": Password = None, Any, PerBroker, NotYet, "TLS: trusted certificates as PEM.";
    "ssl.truststore.location": String = None, Any, PerBroker, NotYet, "TLS: file of the trust store.";
    "ssl.truststore.password": Password = None, Any, PerBroker, NotYet, "TLS: password of the trust store.";
    "ssl.truststore.type": String = Some("JKS"), Any, PerBroker, NotYet, "TLS: format of the trust store.";
    "telemetry.max.bytes": Int = Some("1048576"), AtLeast(1), ReadOnly, NoEffect, "KRaft only: largest metrics push of a client.";
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": Int = Some("10000"), AtLeast(1), ReadOnly, Acted, "Time until an abort for time that could not be written is tried again.";
    "transaction.max.timeout.ms": Int = Some("900000"), AtLeast(1), ReadOnly, Acted, "Longest transaction a producer may ask for.";
    "transaction.partition.verification.enable": Boolean = Some("true"), Any, ClusterWide, Acted, "Whether a leader asks the coordinator before it accepts transactional records.";
    "transaction.remove.expired.transaction.cleanup.interval.ms": Int = Some("3600000"), AtLeast(1), ReadOnly, Acted, "Time between checks for transactional ids to forget.";
    "transaction.state.log.load.buffer.size": Int = Some("5242880"), AtLeast(1), ReadOnly, Acted, "Bytes read at once when transactions are loaded.";
    "transaction.state.log.min.isr": Int = Some("2"), AtLeast(1), ReadOnly, Acted, "min.insync.replicas of the transaction topic.";
    "transaction.state.log.num.partitions": Int = Some("50"), AtLeast(1), ReadOnly, Acted, "Partitions of the transaction topic.";
    "transaction.state.log.replication.factor": Short = Some("3"), AtLeast(1), ReadOnly, Acted, "Replicas of the transaction topic.";
    "transaction.state.log.segment.bytes": Int = Some("104857600"), AtLeast(1), ReadOnly, Acted, "Largest segment of the transaction topic.";
    "transactional.id.expiration.ms": Int = Some("604800000"), AtLeast(1), ReadOnly, Acted, "Time after which an idle transactional id is forgotten.";
    "unclean.leader.election.enable": Boolean = Some("false"), Any, ClusterWide, Acted, "Whether a replica outside the ISR may lead when no other can, losing records.";
    "unclean.leader.election.interval.ms": Long = Some("300000"), AtLeast(1), ReadOnly, NoEffect internal, "KRaft only: time between checks for unclean elections.";
    "unstable.api.versions.enable": Boolean = Some("false"), Any, ReadOnly, NoEffect internal, "Whether versions under development are offered.";
    "unstable.feature.versions.enable": Boolean = Some("false"), Any, ReadOnly, NoEffect internal, "Whether feature versions under development are offered.";
    "zookeeper.clientCnxnSocket": String = None, Any, ReadOnly, NoEffect, "Class of the ZooKeeper client's socket in the JVM.";
    "zookeeper.connect": String = None, Any, ReadOnly, Acted, "ZooKeeper servers as host:port, separated by commas, then an optional chroot path.";
    "zookeeper.connection.timeout.ms": Int = None, Any, ReadOnly, Acted, "Time to wait for ZooKeeper; the session timeout when unset.";
    "zookeeper.max.in.flight.requests": Int = Some("10"), AtLeast(1), ReadOnly, Acted, "Most unanswered requests to ZooKeeper.";
    "zookeeper.metadata.migration.enable": Boolean = Some("false"), Any, ReadOnly, Refused, "Whether this cluster is being migrated to KRaft.";
    "zookeeper.metadata.migration.min.batch.size": Int = Some("200"), AtLeast(1), ReadOnly, NoEffect internal, "Migration to KRaft: records in a batch.";
    "zookeeper.session.timeout.ms": Int = Some("18000"), Any, ReadOnly, Acted, "Time without contact after which ZooKeeper drops the broker's session.";
    "zookeeper.set.acl": Boolean = Some("false"), Any, ReadOnly, Acted, "Whether znodes are created with access rights.";
    "zookeeper.ssl.cipher.suites": List = None, Any, ReadOnly, NotYet, "ZooKeeper over TLS: cipher suites.";
    "zookeeper.ssl.client.enable": Boolean = Some("false"), Any, ReadOnly, Acted, "ZooKeeper over TLS: whether to use it.";
    "zookeeper.ssl.crl.enable": Boolean = Some("false"), Any, ReadOnly, NotYet, "ZooKeeper over TLS: whether revocation lists are read.";
    "zookeeper.ssl.enabled.protocols": List = None, Any, ReadOnly, NotYet, "ZooKeeper over TLS: versions.";
    "zookeeper.ssl.endpoint.identification.algorithm": String = Some("HTTPS"), Any, ReadOnly, Acted, "ZooKeeper over TLS: HTTPS checks host names, empty does not.";
    "zookeeper.ssl.keystore.location": String = None, Any, ReadOnly, Acted, "ZooKeeper over TLS: file of the key store.";
    "zookeeper.ssl.keystore.password": Password = None, Any, ReadOnly, NotYet, "ZooKeeper over TLS: password of the key store.";
    "zookeeper.ssl.keystore.type": String = None, Any, ReadOnly, Acted, "ZooKeeper over TLS: format of the key store.";
    "zookeeper.ssl.ocsp.enable": Boolean = Some("false"), Any, ReadOnly, NotYet, "ZooKeeper over TLS: whether OCSP is asked.";
    "zookeeper.ssl.protocol": String = Some("TLSv1.2"), Any, ReadOnly, NotYet, "ZooKeeper over TLS: version to prefer.";
    "zookeeper.ssl.truststore.location": String = None, Any, ReadOnly, Acted, "ZooKeeper over TLS: file of the trust store.";
    "zookeeper.ssl.truststore.password": Password = None, Any, ReadOnly, NotYet, "ZooKeeper over TLS: password of the trust store.";
    "zookeeper.ssl.truststore.type": String = None, Any, ReadOnly, Acted, "ZooKeeper over TLS: format of the trust store.";
}

settings! {
    /// Settings that no Kafka has: limits on what peers can make this broker hold, where Kafka has none, and what its disks
    /// are to do beyond Kafka's. A JVM broker ignores them.
    OWN:
    "cluster.max.partitions": Int = Some("200000"), AtLeast(1), ReadOnly, Acted, "Most partitions of all topics; beyond it clients can make no more, whether they ask for it or a topic is created by itself.";
    "group.coordinator.max.bytes": Long = Some("268435456"), AtLeast(1), ReadOnly, Acted, "Most bytes held of groups, members and offsets; what would add to them is refused beyond.";
    "group.max.metadata.bytes": Long = Some("16777216"), AtLeast(1), ReadOnly, Acted, "Most bytes of names, metadata and assignments that the members of one group may have.";
    "group.max.pending.members": Int = Some("50000"), AtLeast(1), ReadOnly, Acted, "Most member ids handed out that nobody has joined with; the oldest are taken back.";
    "log.dir.reserved.bytes": Long = Some("0"), AtLeast(0), ReadOnly, Acted, "Of the volume of each log directory, what no records of topics may take, so that internal topics and checkpoints can be written when there is no room for others; 0 for nothing.";
    "log.flush.before.acknowledgement": Boolean = Some("false"), Any, ReadOnly, Acted, "Whether records are fsynced before they are acknowledged; those that arrive meanwhile share the next fsync.";
    "max.producer.ids": Int = Some("1000000"), AtLeast(8), ReadOnly, Acted, "Most producers whose sequences all partitions remember; beyond it a partition forgets one for each new one.";
    "max.producer.ids.per.partition": Int = Some("20000"), AtLeast(8), ReadOnly, Acted, "Most producers whose sequences a partition remembers; those that wrote longest ago are forgotten.";
    "socket.response.max.bytes": Int = Some("67108864"), AtLeast(65_536), ReadOnly, Acted, "Most memory one answer takes while it is built, fetched records apart; a request that needs more is refused with POLICY_VIOLATION.";
    "transaction.coordinator.max.bytes": Long = Some("268435456"), AtLeast(1), ReadOnly, Acted, "Most bytes held of transactional ids and the partitions of their transactions; what would add to them is refused beyond, new ids from three quarters of it on.";
}

/// Settings that 2.8 had and 3.0 dropped, and what does their work since. A 3.9 broker ignores them like any name that it
/// does not know, and so does this one.
/// Source: the tables of settings of 2.8.2 and 3.9.1, compared; KIP-724 and Kafka's notes on upgrading to 3.0.
pub const DROPPED_IN_3_0: [(&str, &str); 7] = [
    ("advertised.host.name", "advertised.listeners"),
    ("advertised.port", "advertised.listeners"),
    ("host.name", "listeners"),
    ("port", "listeners"),
    ("quota.consumer.default", "a default quota, set with kafka-configs.sh"),
    ("quota.producer.default", "a default quota, set with kafka-configs.sh"),
    ("zookeeper.sync.time.ms", "nothing: it was without effect"),
];

settings! {
    /// Settings that exist only in ZooKeeper; written in a file they mean nothing.
    DYNAMIC_ONLY:
    "follower.replication.throttled.rate": Long = Some("9223372036854775807"), AtLeast(0), ClusterWide, Acted, "Bytes a second for throttled replicas that follow here.";
    "leader.replication.throttled.rate": Long = Some("9223372036854775807"), AtLeast(0), ClusterWide, Acted, "Bytes a second for throttled replicas that are led here.";
    "replica.alter.log.dirs.io.max.bytes.per.second": Long = Some("9223372036854775807"), AtLeast(0), ClusterWide, Acted, "Bytes a second for moves between log directories.";
}

/// The broker setting of this name, Kafka's or our own.
pub fn server_setting(name: &str) -> Option<&'static Setting> {
    match SERVER.binary_search_by(|setting| setting.name.cmp(name)) {
        Ok(index) => Some(&SERVER[index]),
        Err(_) => OWN.iter().find(|setting| setting.name == name),
    }
}

/// The part of a name behind `listener.name.<listener>.`, which sets the same for one listener alone.
pub fn without_listener_prefix(name: &str) -> Option<&str> {
    let (_, base) = name.strip_prefix("listener.name.")?.split_once('.')?;
    Some(base)
}

/// The settings that are acted on for a single listener too.
pub const PER_LISTENER: [&str; 2] = ["max.connections", "max.connection.creation.rate"];

/// Whether a name asks for something of one listener that is done for all of them alike.
pub fn is_not_acted_on_per_listener(name: &str) -> bool {
    without_listener_prefix(name).is_some_and(|base| !PER_LISTENER.contains(&base))
}

/// The setting that decides the type of a name that may carry a listener prefix, and with it a SASL mechanism.
/// Source: kafka 3.9 core/src/main/scala/kafka/server/DynamicBrokerConfig.scala, brokerConfigSynonyms.
pub fn setting_behind(name: &str) -> Option<&'static Setting> {
    const PER_MECHANISM: [&str; 5] = [
        "sasl.jaas.config",
        "sasl.login.callback.handler.class",
        "sasl.login.class",
        "sasl.server.callback.handler.class",
        "connections.max.reauth.ms",
    ];
    server_setting(name).or_else(|| DYNAMIC_ONLY.iter().find(|setting| setting.name == name)).or_else(|| {
        let base = without_listener_prefix(name)?;
        server_setting(PER_MECHANISM.into_iter().find(|suffix| base.ends_with(suffix)).unwrap_or(base))
    })
}

/// All settings that decide the same value, the strongest first.
/// Source: kafka 3.9 core/src/main/scala/kafka/server/DynamicBrokerConfig.scala, brokerConfigSynonyms.
pub fn synonyms(name: &str) -> Vec<&str> {
    match name {
        "log.roll.ms" | "log.roll.hours" => vec!["log.roll.ms", "log.roll.hours"],
        "log.roll.jitter.ms" | "log.roll.jitter.hours" => vec!["log.roll.jitter.ms", "log.roll.jitter.hours"],
        "log.flush.interval.ms" => vec!["log.flush.interval.ms", "log.flush.scheduler.interval.ms"],
        "log.retention.ms" | "log.retention.minutes" | "log.retention.hours" => {
            vec!["log.retention.ms", "log.retention.minutes", "log.retention.hours"]
        }
        _ => match without_listener_prefix(name).and_then(|_| setting_behind(name)) {
            Some(setting) => vec![name, setting.name],
            None => vec![name],
        },
    }
}

#[cfg(test)]
pub(super) use tests::check_text;

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = include_str!("../../tests/golden/config/server-3.9.1.tsv");

    pub(in crate::config) fn check_text(setting: &Setting) -> std::string::String {
        let list = |texts: &[&str]| format!("[{}]", texts.join(", "));
        match setting.check {
            Any => std::string::String::new(),
            AtLeast(min) => format!("[{min},...]"),
            Between(min, max) => format!("[{min},...,{max}]"),
            BetweenDoubles(min, max) => format!("[{min},...,{max}]"),
            GzipLevel => "[1,...,9] or -1".to_string(),
            PoolSize => "-1 or [1,...]".to_string(),
            OneOf(texts) | EachOneOf(texts) => list(texts),
            OneOfIgnoringCase(texts) => format!("(case insensitive) {}", list(texts)),
            NonNull => "non-null string".to_string(),
            NonEmpty => "non-empty string".to_string(),
            MetadataVersion => list(
                &crate::config::metadata_version::MetadataVersion::ALL.iter().map(|v| v.name()).collect::<Vec<_>>(),
            ),
            ThrottledReplicas => "[partitionId]:[brokerId],[partitionId]:[brokerId],...".to_string(),
        }
    }

    /// Name, type, default, check, internal and update mode of every setting, against the dump of 3.9.1.
    #[test]
    fn the_table_is_kafkas_table() {
        let ours: Vec<std::string::String> = SERVER
            .iter()
            .map(|setting| {
                let default = setting.default_value().to_text().map_or("null".to_string(), |text| format!("={text}"));
                let mode = match setting.update {
                    ReadOnly => "read-only",
                    PerBroker => "per-broker",
                    ClusterWide => "cluster-wide",
                };
                let internal = if setting.internal { "internal" } else { "" };
                let name = setting.config_type.name();
                format!("{}\t{name}\t{default}\t{}\t{internal}\t{mode}", setting.name, check_text(setting))
            })
            .collect();
        let theirs: Vec<&str> = DUMP.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(theirs.len(), 328);
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours, theirs);
        }
        assert_eq!(ours.len(), theirs.len());
    }

    #[test]
    fn every_default_passes_its_own_check() {
        for setting in SERVER.iter().chain(OWN).chain(DYNAMIC_ONLY) {
            if let Some(text) = setting.default {
                assert_eq!(setting.parse(text), Ok(setting.default_value()), "{}", setting.name);
            }
            assert!(setting.documentation.ends_with('.'), "{}", setting.name);
        }
    }

    #[test]
    fn what_3_0_dropped_is_not_a_setting() {
        assert!(DROPPED_IN_3_0.iter().all(|(name, _)| setting_behind(name).is_none()));
    }

    #[test]
    fn names_behind_a_listener_prefix_are_found() {
        let name = |name| setting_behind(name).map(|setting| setting.name);
        assert_eq!(name("listener.name.internal.ssl.keystore.location"), Some("ssl.keystore.location"));
        assert_eq!(name("listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config"), Some("sasl.jaas.config"));
        assert_eq!(name("listener.name.internal.nonsense"), None);
        assert_eq!(synonyms("listener.name.a.max.connections"), ["listener.name.a.max.connections", "max.connections"]);
    }
}
