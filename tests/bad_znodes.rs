//! A znode that is malformed, that may not be read, or that somebody has removed costs only itself: everything else goes
//! on, it is complained of once, and when it has been repaired nothing is left of the trouble.

mod support;

use std::time::Duration;

use odradek::protocol::messages::incremental_alter_configs::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use odradek::protocol::messages::update_metadata::UpdateMetadataRequest;
use odradek::record::compression::Codec;
use support::client::{Client, batch, values};
use support::{Brokers, Cluster, Kind, PATIENCE, ZooKeeper, eventually};
use tokio::runtime::Runtime;
use zookeeper_client::{Acl, Acls, AuthId, CreateMode, Error, Permission};

const JUNK: &[&[u8]] = &[
    b"junk",
    b"",
    b"[]",
    br#"{"version":"x","partitions":{"0":"y"},"config":{"a":1},"endpoints":7,"brokerid":[],"leader":"z","isr":{}}"#,
    b"\xff\xfe{\"version\":1}",
];

const STALE_BROKER_EPOCH: i16 = 77;

/// Writes to ZooKeeper whatever it is told to, and has a name of its own there, so that others can be shut out.
struct Vandal {
    runtime: Runtime,
    zk: zookeeper_client::Client,
}

impl Vandal {
    fn new(zookeeper: &ZooKeeper) -> Vandal {
        let runtime = Runtime::new().expect("a runtime");
        let connector = zookeeper_client::Client::connector()
            .with_session_timeout(Duration::from_secs(30))
            .with_auth("digest", b"vandal:secret");
        let address = format!("127.0.0.1:{}", zookeeper.port);
        let zk = runtime.block_on(connector.connect(&address)).expect("ZooKeeper runs");
        Vandal { runtime, zk }
    }

    fn get(&self, path: &str) -> Option<Vec<u8>> {
        match self.runtime.block_on(self.zk.get_data(path)) {
            Ok((data, _)) => Some(data),
            Err(Error::NoNode) => None,
            Err(error) => panic!("read {path}: {error}"),
        }
    }

    /// Writes the znode, made with its parents if it is not there.
    fn write(&self, path: &str, data: &[u8]) {
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        let written = self.runtime.block_on(async {
            match self.zk.set_data(path, data, None).await {
                Err(Error::NoNode) => {}
                outcome => return outcome.map(|_| ()),
            }
            if let Some((parent, _)) = path.rsplit_once('/').filter(|(parent, _)| !parent.is_empty()) {
                self.zk.mkdir(parent, &options).await?;
            }
            self.zk.create(path, data, &options).await.map(|_| ())
        });
        written.unwrap_or_else(|error| panic!("write {path}: {error}"));
    }

    fn remove(&self, path: &str) {
        let children = match self.runtime.block_on(self.zk.list_children(path)) {
            Ok(children) => children,
            Err(Error::NoNode) => return,
            Err(error) => panic!("list {path}: {error}"),
        };
        for child in children {
            self.remove(&format!("{path}/{child}"));
        }
        match self.runtime.block_on(self.zk.delete(path, None)) {
            Ok(()) | Err(Error::NoNode) => {}
            Err(error) => panic!("delete {path}: {error}"),
        }
    }

    /// Nobody else may do anything with the znode, or everybody again.
    fn shut(&self, path: &str, is_shut: bool) {
        let acl = match is_shut {
            true => Acl::new(Permission::ALL, AuthId::new("auth", "")),
            false => Acl::new(Permission::ALL, AuthId::anyone()),
        };
        let set = self.runtime.block_on(self.zk.set_acl(path, &[acl], None));
        set.unwrap_or_else(|error| panic!("set the ACL of {path}: {error}"));
    }
}

/// Counts what a test wrote and made.
struct Bystander {
    written: i64,
    topics: u32,
}

impl Bystander {
    /// What has nothing to do with the bad znode goes on.
    fn is_served(&mut self, client: &mut Client) {
        let outcome = client.produce("bystander", 0, batch(Codec::None, [self.written.to_string()]));
        assert_eq!(outcome.expect("the produce is answered"), Ok(self.written));
        let read = client.read_all("bystander", 0, self.written).expect("the fetch is answered");
        assert_eq!(values(&read), [self.written.to_string()]);
        self.written += 1;
    }

    /// There is a controller, and it decides.
    fn is_controlled(&mut self, cluster: &Cluster) {
        self.topics += 1;
        let name = format!("new-{}", self.topics);
        let mut client = eventually(PATIENCE, "a topic can be created", || {
            let mut client = cluster.broker.client();
            // One that was not answered in time may have been created.
            match client.try_create_topic(&name, 1, &[]).map_err(|error| error.to_string())? {
                0 | 36 => Ok(client),
                code => Err(format!("error {code}")),
            }
        });
        client.until_led(&name, 1);
    }
}

fn complaints(cluster: &mut Cluster, path: &str) -> usize {
    let (said, znode) = (cluster.broker.process().said(), format!("znode {path} "));
    said.lines().filter(|line| line.contains("ERROR") && line.contains(&znode)).count()
}

fn is_complained_of(cluster: &mut Cluster, path: &str, already: usize) {
    eventually(PATIENCE, &format!("{path} is complained of"), || match complaints(cluster, path) {
        count if count > already => Ok(()),
        _ => Err(cluster.broker.process().last_words()),
    });
}

#[derive(Clone, Copy, PartialEq)]
enum Meanwhile {
    /// Everything but the znode's own thing.
    Controlled,
    /// Nobody can be elected.
    Served,
}

#[test]
fn a_malformed_znode_costs_only_itself_and_is_taken_over_once_it_is_repaired() {
    // What it says of itself is read from its log, so it is ours.
    let mut cluster = Cluster::start_as(Kind::Odradek, "malformed-znodes", "");
    let vandal = Vandal::new(&cluster.zookeeper);
    let mut client = cluster.broker.client();
    client.create_topic("bystander", 1, &[]);
    client.create_topic("victim", 1, &[]);
    let mut bystander = Bystander { written: 0, topics: 0 };
    let assignment = br#"{"version":1,"partitions":{"0":[0]}}"#;
    let stranger = br#"{"listener_security_protocol_map":{"PLAINTEXT":"PLAINTEXT"},"endpoints":["PLAINTEXT://127.0.0.1:1"],"jmx_port":-1,"port":1,"host":"127.0.0.1","version":4,"timestamp":"1"}"#;
    let long = format!("/brokers/topics/{}", "x".repeat(300));

    // The znode, what is written to repair it (what was there, or this; nothing removes it), whether it is complained
    // of by its path, and what goes on meanwhile.
    use Meanwhile::{Controlled, Served};
    let table: &[(&str, Option<&[u8]>, bool, Meanwhile)] = &[
        ("/brokers/topics/victim", None, true, Controlled),
        ("/brokers/topics/found-later", Some(assignment), true, Controlled),
        (&long, None, true, Controlled),
        ("/brokers/topics/a b", None, true, Controlled),
        ("/brokers/topics/victim/partitions/0/state", None, false, Controlled),
        ("/config/topics/victim", None, false, Controlled),
        ("/config/topics/bystander", None, false, Controlled),
        ("/config/brokers/<default>", None, false, Controlled),
        ("/config/brokers/0", None, false, Controlled),
        ("/config/changes/config_change_0000000500", None, false, Controlled),
        ("/config/changes/junk", None, false, Controlled),
        ("/isr_change_notification/isr_change_0000000007", None, true, Controlled),
        ("/log_dir_event_notification/log_dir_event_0000000007", None, true, Controlled),
        ("/admin/delete_topics/nobody", None, false, Controlled),
        ("/admin/delete_topics/..x y", None, false, Controlled),
        ("/brokers/ids/0", None, false, Controlled),
        ("/brokers/ids/7", Some(stranger), true, Controlled),
        ("/brokers/ids/nobody", None, false, Controlled),
        ("/feature", None, false, Controlled),
        ("/latest_producer_id_block", None, false, Controlled),
        ("/cluster/id", None, false, Controlled),
        ("/consumers/g", None, false, Controlled),
        ("/delegation_token/tokens/x", None, false, Controlled),
        ("/controller", None, true, Controlled),
        ("/controller_epoch", None, false, Served),
    ];
    for (path, repair, is_named, meanwhile) in table {
        println!("{path:.60}");
        let original = vandal.get(path);
        for junk in JUNK {
            // A topic without partitions, and settings that nobody has written, are what this is.
            let is_legal = junk.is_empty() && path.starts_with("/config/");
            let before = complaints(&mut cluster, path);
            vandal.write(path, junk);
            if *is_named && !is_legal && before == 0 {
                is_complained_of(&mut cluster, path, before);
            }
            bystander.is_served(&mut client);
        }
        if *meanwhile == Controlled {
            bystander.is_controlled(&cluster);
        }
        match (&original, repair) {
            (Some(data), None) => vandal.write(path, data),
            (_, Some(data)) => vandal.write(path, data),
            (None, None) => vandal.remove(path),
        }
        bystander.is_served(&mut client);
        bystander.is_controlled(&cluster);
        let said = complaints(&mut cluster, path);
        assert!(said <= 2 * JUNK.len() + 2, "{path} is complained of {said} times");
    }
    client.until_led("found-later", 1);
    eventually(PATIENCE, "the other broker is known", || {
        let metadata = client.metadata(&[]).map_err(|error| error.to_string())?;
        let brokers: Vec<i32> = metadata.brokers.iter().map(|broker| broker.node_id).collect();
        if brokers.contains(&7) { Ok(()) } else { Err(format!("{brokers:?}")) }
    });
    vandal.remove("/brokers/ids/7");
    let outcome = client.produce("victim", 0, batch(Codec::None, ["x".to_owned()]));
    assert_eq!(outcome.expect("the produce is answered"), Ok(0));
    assert_eq!(cluster.broker.stop().code(), Some(0));
}

#[test]
fn znodes_that_somebody_removes_are_made_anew_where_the_broker_needs_them() {
    let mut cluster = Cluster::start_as(Kind::Odradek, "removed-znodes", "");
    let vandal = Vandal::new(&cluster.zookeeper);
    let mut client = cluster.broker.client();
    client.create_topic("bystander", 1, &[]);
    let mut bystander = Bystander { written: 0, topics: 0 };
    for path in [
        "/brokers/ids/0",
        "/brokers/ids",
        "/controller",
        "/controller_epoch",
        "/isr_change_notification",
        "/log_dir_event_notification",
        "/config/changes",
        "/config/brokers",
        "/admin/delete_topics",
        "/admin",
        "/feature",
        "/cluster/id",
        "/consumers",
        "/latest_producer_id_block",
        "/brokers/topics/bystander/partitions/0/state",
    ] {
        println!("{path}");
        vandal.remove(path);
        bystander.is_served(&mut client);
        bystander.is_controlled(&cluster);
        let registered =
            || vandal.get("/brokers/ids/0").filter(|data| data.starts_with(b"{")).ok_or("nothing".to_owned());
        eventually(PATIENCE, "the broker is registered", registered);
    }
    // A leadership that has to change goes on from what it was, though its state is gone.
    let state = "/brokers/topics/bystander/partitions/0/state";
    let leader_epoch = |vandal: &Vandal| -> Option<i64> {
        let json: serde_json::Value = serde_json::from_slice(&vandal.get(state)?).expect("a state is JSON");
        json["leader_epoch"].as_i64()
    };
    vandal.remove("/controller");
    bystander.is_controlled(&cluster);
    let before = eventually(PATIENCE, "the state is there", || leader_epoch(&vandal).ok_or("nothing".to_owned()));
    vandal.remove(state);
    vandal.remove("/brokers/ids/0");
    eventually(PATIENCE, "the state is there under a later epoch", || match leader_epoch(&vandal) {
        Some(epoch) if epoch > before => Ok(()),
        epoch => Err(format!("{epoch:?}, and {before} before")),
    });
    bystander.is_controlled(&cluster);
    client.until_led("bystander", 1);
    bystander.is_served(&mut client);
    // The counter of notifications begins anew, and a change is heard of all the same.
    vandal.write("/config/topics/bystander", br#"{"version":1,"config":{"max.message.bytes":"100"}}"#);
    vandal.write("/config/changes/config_change_0000000000", br#"{"version":2,"entity_path":"topics/bystander"}"#);
    eventually(PATIENCE, "the change is obeyed", || {
        match client.produce("bystander", 0, batch(Codec::None, ["y".repeat(200)])) {
            Ok(Err(10)) => Ok(()),
            outcome => Err(format!("{outcome:?}")),
        }
    });
    let deleted = "new-1";
    vandal.write(&format!("/admin/delete_topics/{deleted}"), b"");
    eventually(PATIENCE, "a topic is deleted", || match vandal.get(&format!("/brokers/topics/{deleted}")) {
        None => Ok(()),
        Some(_) => Err("it is there".to_owned()),
    });
    assert_eq!(cluster.broker.stop().code(), Some(0));
}

#[test]
fn a_broker_whose_id_another_process_has_taken_obeys_nothing_that_was_meant_for_it_before() {
    let mut cluster = Cluster::start_as(Kind::Odradek, "taken-id", "");
    let vandal = Vandal::new(&cluster.zookeeper);
    let path = "/brokers/ids/0";
    let (data, stat) = vandal.runtime.block_on(vandal.zk.get_data(path)).expect("the broker is registered");
    let options = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
    let taken = vandal.runtime.block_on(async {
        let mut both = vandal.zk.new_multi_writer();
        both.add_delete(path, None)?;
        both.add_create(path, &data, &options)?;
        both.commit().await
    });
    taken.expect("the id is taken");
    eventually(PATIENCE, "the broker notices", || match cluster.broker.process().said() {
        said if said.contains("this broker is not registered") => Ok(()),
        said => Err(said),
    });
    // It is judged by the next registration, for which it waits; the old one would let it in.
    let mut client = cluster.broker.client();
    let request = UpdateMetadataRequest {
        controller_id: 0,
        controller_epoch: 1_000_000,
        broker_epoch: stat.czxid,
        ..UpdateMetadataRequest::default()
    };
    let asked = client.send(&request, 8).expect("the broker takes the request");
    vandal.remove(path);
    let answer = client.receive::<UpdateMetadataRequest>(8, asked).expect("the broker answers");
    assert_eq!(answer.error_code, STALE_BROKER_EPOCH);
    assert_eq!(cluster.broker.stop().code(), Some(0));
}

#[test]
fn the_controller_hears_of_a_failed_log_directory_once_it_can_be_told() {
    let soon = "log.flush.offset.checkpoint.interval.ms=300\nlog.initial.task.delay.ms=300\n\
                replica.high.watermark.checkpoint.interval.ms=300";
    let mut cluster = Cluster::start_as(Kind::Odradek, "untold-dir", soon);
    let vandal = Vandal::new(&cluster.zookeeper);
    cluster.broker.stop();
    let dirs = ["first", "second"].map(|name| cluster.scratch.path(name));
    let mut properties = std::fs::read_to_string(&cluster.broker.config).expect("it was written");
    properties.push_str(&format!("log.dirs={},{}\n", dirs[0].display(), dirs[1].display()));
    std::fs::write(&cluster.broker.config, properties).expect("it can be written");
    cluster.start_broker(Kind::Odradek);
    cluster.broker.client().create_topic("everywhere", 4, &[]);

    let path = "/log_dir_event_notification";
    let changes =
        || vandal.runtime.block_on(vandal.zk.check_stat(path)).expect("it is there").map(|stat| stat.cversion);
    let before = changes().expect("it is there");
    vandal.shut(path, true);
    eventually(PATIENCE, "the directory is removed", || {
        std::fs::remove_dir_all(&dirs[0]).map_err(|error| error.to_string())
    });
    is_complained_of(&mut cluster, &format!("{path}/log_dir_event_"), 0);
    vandal.shut(path, false);
    // A notification is made, and taken away by the controller.
    eventually(PATIENCE, "the controller has been told", || match changes() {
        Some(now) if now >= before + 2 => Ok(()),
        now => Err(format!("{now:?} after {before}")),
    });
}

/// The broker's setting would have records thrown away that the topic's is to keep.
#[test]
fn a_topic_whose_settings_cannot_be_read_gets_no_leader_from_outside_its_isr() {
    let mut cluster = Brokers::start("unread-unclean", 2, "unclean.leader.election.enable=true");
    let vandal = Vandal::new(&cluster.zookeeper);
    cluster.client(0).create_replicated_topic("t", 1, 2, &[("unclean.leader.election.enable", "false")]);
    let leader = cluster.until_partition("t", 0, "both are in sync", |found| found.isr_nodes.len() == 2).leader_id;
    let [leads, follows] = [leader, 1 - leader].map(|id| usize::try_from(id).expect("0 or 1"));
    cluster.brokers[follows].stop();
    let outcome = cluster.client(leader).produce("t", 0, batch(Codec::None, ["kept".to_owned()]));
    assert_eq!(outcome.expect("the produce is answered"), Ok(0));
    cluster.brokers[leads].stop();

    vandal.shut("/config/topics/t", true);
    cluster.start_broker(follows, Kind::under_test());
    let now_leads = eventually(PATIENCE, "the leader is missed", || {
        let state = vandal.get("/brokers/topics/t/partitions/0/state").expect("it has a state");
        let state: serde_json::Value = serde_json::from_slice(&state).expect("a state is JSON");
        match &state["leader"] {
            now if *now == leader => Err(state.to_string()),
            now => Ok(now.clone()),
        }
    });
    assert_eq!(now_leads, -1);
    vandal.shut("/config/topics/t", false);
    cluster.start_broker(leads, Kind::under_test());
    cluster.until_partition("t", 0, "it is led where it was", |found| found.leader_id == leader);
    let read = cluster.client(leader).read_all("t", 0, 0).expect("the fetch is answered");
    assert_eq!(values(&read), ["kept"]);
}

/// A broker that cannot tell which cluster it would join must not join it, or found another.
#[test]
fn a_broker_that_has_no_cluster_id_does_not_start_where_it_cannot_be_read() {
    let mut cluster = Cluster::start_as(Kind::Odradek, "no-cluster-id", "");
    let vandal = Vandal::new(&cluster.zookeeper);
    let original = vandal.get("/cluster/id").expect("it was made");
    cluster.broker.stop();
    std::fs::remove_dir_all(&cluster.broker.data).expect("the data directory");
    let refused = |cluster: &mut Cluster, why: &str| {
        cluster.broker.process = Some(cluster.broker.spawn(Kind::Odradek, &cluster.scratch));
        let process = cluster.broker.process();
        let status =
            eventually(PATIENCE, "the broker ends", || process.has_ended().ok_or_else(|| process.last_words()));
        assert_eq!(status.code(), Some(1));
        let said = cluster.broker.process().said();
        assert!(said.lines().any(|line| line.contains("read /cluster/id: ") && line.contains(why)), "{said}");
    };
    for junk in JUNK {
        vandal.write("/cluster/id", junk);
        refused(&mut cluster, "znode /cluster/id is malformed");
    }
    vandal.write("/cluster/id", &original);
    vandal.shut("/cluster/id", true);
    refused(&mut cluster, "the ACL of znode /cluster/id");
    vandal.shut("/cluster/id", false);
    cluster.start_broker(Kind::Odradek);
    assert_eq!(vandal.get("/cluster/id"), Some(original));
}

#[test]
fn a_controller_that_stops_gives_up_its_office_before_its_registration() {
    let mut cluster = Cluster::start_as(Kind::Odradek, "office-first", "");
    let vandal = Vandal::new(&cluster.zookeeper);
    cluster.broker.client().create_topic("t", 1, &[]);
    assert_eq!(cluster.broker.stop().code(), Some(0));
    // When a child was last made or removed: here /controller, and the registration.
    let changed = |path: &str| {
        let (_, stat) = vandal.runtime.block_on(vandal.zk.get_data(path)).expect("it is there");
        stat.pzxid
    };
    assert_eq!((vandal.get("/controller"), vandal.get("/brokers/ids/0")), (None, None));
    let (office, registration) = (changed("/"), changed("/brokers/ids"));
    assert!(office < registration, "the office went at {office}, the registration at {registration}");
}

#[test]
fn what_cannot_be_read_at_an_election_makes_no_broker_run_for_office_without_end() {
    let mut cluster = Cluster::start_as(Kind::Odradek, "unelectable", "");
    let vandal = Vandal::new(&cluster.zookeeper);
    let mut client = cluster.broker.client();
    client.create_topic("bystander", 1, &[]);
    let mut bystander = Bystander { written: 0, topics: 0 };
    let elections = |cluster: &mut Cluster| -> Vec<f64> {
        let said = cluster.broker.process().said();
        let won = said.lines().filter(|line| line.contains("successfully elected as the controller"));
        // [2018-05-31 11:53:48,631]
        let seconds = won.map(|line| {
            let parts = line[12..24].split([':', ',']).map(|part| part.parse::<f64>().expect("a time"));
            let [hours, minutes, seconds, millis] = parts.collect::<Vec<_>>()[..] else { panic!("{line}") };
            (hours * 60.0 + minutes) * 60.0 + seconds + millis / 1000.0
        });
        seconds.collect()
    };
    let before = elections(&mut cluster).len();
    vandal.shut("/brokers/topics", true);
    vandal.remove("/controller");
    let won = eventually(PATIENCE, "the broker is elected twice", || match elections(&mut cluster).split_off(before) {
        won if won.len() >= 2 => Ok(won),
        won => Err(format!("{won:?}")),
    });
    let between = (won[1] - won[0]).rem_euclid(24.0 * 60.0 * 60.0);
    assert!(between > 4.0, "elected again after {between} s");
    bystander.is_served(&mut client);
    let said = cluster.broker.process().said();
    assert_eq!(said.lines().filter(|line| line.contains("cannot be the controller")).count(), 1, "{said}");
    vandal.shut("/brokers/topics", false);
    bystander.is_controlled(&cluster);

    // Settings that were unreadable when a topic was created are taken over once they are not, though nobody says so.
    vandal.write("/config/topics/new-2", b"junk");
    vandal.write("/brokers/topics/new-2", br#"{"version":1,"partitions":{"0":[0]}}"#);
    client.until_led("new-2", 1);
    vandal.write("/config/topics/new-2", br#"{"version":1,"config":{"max.message.bytes":"100"}}"#);
    eventually(PATIENCE, "the settings are obeyed", || {
        match client.produce("new-2", 0, batch(Codec::None, ["y".repeat(200)])) {
            Ok(Err(10)) => Ok(()),
            outcome => Err(format!("{outcome:?}")),
        }
    });
    assert_eq!(cluster.broker.stop().code(), Some(0));
}

#[test]
fn a_broker_starts_among_bad_znodes_and_takes_each_over_once_it_is_repaired() {
    let mut cluster = Cluster::start_as(Kind::Odradek, "start-among-bad-znodes", "");
    let vandal = Vandal::new(&cluster.zookeeper);
    let mut client = cluster.broker.client();
    let topics = ["bystander", "junk", "shut", "junk-state", "shut-state", "junk-config", "shut-config", "undeletable"];
    for topic in topics {
        client.create_topic(topic, 1, &[]);
    }
    client.producer_id().expect("a producer id is given out");
    cluster.broker.stop();

    let state = |topic: &str| format!("/brokers/topics/{topic}/partitions/0/state");
    let malformed = [
        "/brokers/topics/junk".to_owned(),
        state("junk-state"),
        "/config/topics/junk-config".to_owned(),
        "/config/brokers/0".to_owned(),
        "/brokers/ids/8".to_owned(),
        "/feature".to_owned(),
        "/config/changes/config_change_0000000900".to_owned(),
        "/isr_change_notification/isr_change_0000000900".to_owned(),
        "/log_dir_event_notification/log_dir_event_0000000900".to_owned(),
        format!("/brokers/topics/{}", "y".repeat(300)),
        format!("/admin/delete_topics/{}", "y".repeat(300)),
    ];
    let shut = [
        "/brokers/topics/shut".to_owned(),
        state("shut-state"),
        "/config/topics/shut-config".to_owned(),
        "/config/brokers/<default>".to_owned(),
        "/brokers/ids/9".to_owned(),
        "/config/changes/config_change_0000000901".to_owned(),
        "/isr_change_notification/isr_change_0000000901".to_owned(),
        "/log_dir_event_notification/log_dir_event_0000000901".to_owned(),
        // Whoever deletes a topic must be allowed to delete what is below it.
        "/brokers/topics/undeletable/partitions".to_owned(),
    ];
    let originals: Vec<Option<Vec<u8>>> = malformed.iter().map(|path| vandal.get(path)).collect();
    for path in &malformed {
        vandal.write(path, b"junk");
    }
    for path in &shut {
        if vandal.get(path).is_none() {
            vandal.write(path, b"");
        }
        vandal.shut(path, true);
    }
    vandal.write("/admin/delete_topics/undeletable", b"");

    cluster.start_broker(Kind::Odradek);
    let mut bystander = Bystander { written: 0, topics: 0 };
    let mut client = cluster.broker.client();
    client.until_led("bystander", 1);
    bystander.is_served(&mut client);
    bystander.is_controlled(&cluster);
    for topic in ["junk-config", "shut-config"] {
        client.until_led(topic, 1);
    }
    // What is watched is that nothing more is said while each is tried several times, every 5 seconds at least.
    for path in ["/brokers/topics/shut", &state("junk-state"), "/brokers/topics/undeletable/partitions"] {
        is_complained_of(&mut cluster, path, 0);
    }
    let patience = std::time::Instant::now() + Duration::from_secs(12);
    while std::time::Instant::now() < patience {
        bystander.is_served(&mut client);
        std::thread::sleep(Duration::from_millis(200));
    }
    for path in malformed.iter().chain(&shut) {
        let said = complaints(&mut cluster, path);
        assert!(said <= 2, "{path:.60} is complained of {said} times");
    }
    assert!(vandal.get("/controller").is_some_and(|data| data.starts_with(b"{")));

    // A tool repairs what it changes.
    let change =
        AlterableConfig { name: "max.message.bytes".to_owned(), config_operation: 0, value: Some("100".to_owned()) };
    let resource =
        AlterConfigsResource { resource_type: 2, resource_name: "junk-config".to_owned(), configs: vec![change] };
    let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
    let changed = client.call(&request, 1).expect("the broker answers IncrementalAlterConfigs");
    assert_eq!(changed.responses[0].error_code, 0, "{:?}", changed.responses[0].error_message);
    eventually(PATIENCE, "the change is obeyed", || {
        match client.produce("junk-config", 0, batch(Codec::None, ["y".repeat(200)])) {
            Ok(Err(10)) => Ok(()),
            outcome => Err(format!("{outcome:?}")),
        }
    });

    for (path, original) in malformed.iter().zip(&originals) {
        match original {
            Some(data) => vandal.write(path, data),
            None => vandal.remove(path),
        }
    }
    for path in &shut {
        if !path.contains("_notification/") {
            vandal.shut(path, false);
        }
    }
    for topic in ["junk", "shut", "junk-state", "shut-state"] {
        client.until_led(topic, 1);
        let outcome = client.produce(topic, 0, batch(Codec::None, ["x".to_owned()]));
        assert_eq!(outcome.expect("the produce is answered"), Ok(0), "{topic}");
    }
    eventually(PATIENCE, "the topic is deleted now", || match vandal.get("/brokers/topics/undeletable") {
        None => Ok(()),
        Some(_) => Err("it is there".to_owned()),
    });
    bystander.is_controlled(&cluster);
    assert_eq!(cluster.broker.stop().code(), Some(0));
    assert_eq!(vandal.get("/controller"), None, "the office went with the broker");
}
