//! What the units and scripts of JVM brokers have in their environment: system properties in KAFKA_OPTS of which some say
//! things that no setting does, and much that only a JVM needs.

/// What Kafka's scripts read, and what is set there for a JVM alone.
/// Source: kafka 3.9 bin/kafka-run-class.sh, bin/kafka-server-start.sh.
const FOR_A_JVM: [&str; 11] = [
    "CLASSPATH",
    "DEBUG_SUSPEND_FLAG",
    "EXTRA_ARGS",
    "GC_LOG_ENABLED",
    "JAVA_DEBUG_OPTS",
    "JMX_PORT",
    "KAFKA_GC_LOG_OPTS",
    "KAFKA_HEAP_OPTS",
    "KAFKA_JMX_OPTS",
    "KAFKA_JVM_PERFORMANCE_OPTS",
    "KAFKA_LOG4J_OPTS",
];

/// The system properties that are acted on (`zookeeper_settings.rs`).
const ACTED_ON: [&str; 11] = [
    "java.security.auth.login.config",
    "jute.maxbuffer",
    "zookeeper.client.secure",
    "zookeeper.clientCnxnSocket",
    "zookeeper.sasl.client",
    "zookeeper.sasl.clientconfig",
    "zookeeper.ssl.hostnameVerification",
    "zookeeper.ssl.keyStore.location",
    "zookeeper.ssl.keyStore.type",
    "zookeeper.ssl.trustStore.location",
    "zookeeper.ssl.trustStore.type",
];

/// The value of a system property in KAFKA_OPTS; the last one counts.
pub fn property(name: &str) -> Option<String> {
    debug_assert!(ACTED_ON.contains(&name), "{name} is acted on, and is to be listed");
    let options = std::env::var("KAFKA_OPTS").unwrap_or_default();
    let prefix = format!("-D{name}=");
    options.split_whitespace().rev().find_map(|option| option.strip_prefix(&prefix).map(str::to_owned))
}

/// Names of what is set in the environment and has no meaning here. Never their values, which may be passwords.
pub fn without_meaning(variable: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let set = |name: &&&str| variable(name).is_some_and(|value| !value.is_empty());
    let mut names: Vec<String> = FOR_A_JVM.iter().filter(set).map(|name| (*name).to_owned()).collect();
    let options = variable("KAFKA_OPTS").unwrap_or_default();
    for option in options.split_whitespace() {
        let name = option.split(['=', ':']).next().unwrap_or_default();
        let is_acted_on = name.strip_prefix("-D").is_some_and(|name| ACTED_ON.contains(&name));
        if !is_acted_on {
            names.push(format!("{name} of KAFKA_OPTS"));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_jvm_needs_is_named_without_its_value() {
        let set = |name: &str| match name {
            "KAFKA_HEAP_OPTS" => Some("-Xmx6g".to_owned()),
            "JMX_PORT" => Some("9999".to_owned()),
            "KAFKA_GC_LOG_OPTS" => Some(String::new()),
            "KAFKA_OPTS" => Some(
                "-Djute.maxbuffer=4194304 -javaagent:/opt/agent.jar=9404 -Djavax.net.ssl.keyStorePassword=secret"
                    .to_owned(),
            ),
            _ => None,
        };
        let expected = [
            "JMX_PORT",
            "KAFKA_HEAP_OPTS",
            "-javaagent of KAFKA_OPTS",
            "-Djavax.net.ssl.keyStorePassword of KAFKA_OPTS",
        ];
        assert_eq!(without_meaning(set), expected);
        assert_eq!(without_meaning(|_| None), Vec::<String>::new());
    }
}
