//! What the file and the command line ask for.

use crate::broker::jvm_environment;
use crate::broker::preflight::report::{Report, few};
use crate::config::kafka_config::KafkaConfig;
use crate::config::keys::OWN;

const ABOUT: &str = "settings";

/// The last one with ZooKeeper.
const NEWEST_RELEASE: &str = "3.9";

pub fn look(config: &KafkaConfig, report: &mut Report) {
    config.unsupported().iter().for_each(|refusal| report.refuse(ABOUT, refusal.to_string()));
    config.warnings().into_iter().for_each(|warning| report.warn(ABOUT, warning));
    let protocol = config.inter_broker_protocol_version();
    if config.originals().contains_key("inter.broker.protocol.version") {
        let release = protocol.release();
        let up_to = if release == NEWEST_RELEASE { String::new() } else { format!(" up to {NEWEST_RELEASE}") };
        let name = protocol.name();
        let text = format!(
            "inter.broker.protocol.version is {name}: a JVM broker of {release}{up_to} can take its place back"
        );
        report.note(ABOUT, text);
    } else {
        report.warn(
            ABOUT,
            format!(
                "inter.broker.protocol.version is not set, and Odradek takes {} for it where a JVM broker takes that of its \
                 own release: write into the file what the other brokers use before anything is started",
                protocol.name()
            ),
        );
    }
    let without_meaning = jvm_environment::without_meaning(|name| std::env::var(name).ok());
    if !without_meaning.is_empty() {
        report.note(ABOUT, format!("of this environment without effect here: {}", few(&without_meaning)));
    }
    let is_set = |name: &&str| config.originals().contains_key(*name);
    let own: Vec<&str> = OWN.iter().map(|setting| setting.name).filter(is_set).collect();
    if !own.is_empty() {
        report.note(ABOUT, format!("going back: a JVM broker warns that it does not know {}", few(&own)));
    }
}
