//! DescribeConfigs. Source: kafka 3.9 core/src/main/scala/kafka/server/ConfigHelper.scala.

use std::collections::HashSet;

use log::error;
use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::znode::config::ConfigEntity;

use crate::api::alter_configs::ResourceType;
use crate::api::answer::AnswerTooLong;
use crate::api::errors::Refusal;
use crate::api::{RequestContext, Server};
use crate::config::describe::{ConfigEntry, ConfigSource, describe_broker, describe_default_broker, describe_topic};
use crate::config::properties::Properties;
use crate::controller::topic_validation::validate_name;
use crate::model::shown::shown;
use crate::protocol::elements::ElementsWriter;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::message::Message;
use crate::protocol::messages::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResponse,
    DescribeConfigsResult, DescribeConfigsSynonym,
};

/// What the client wants to know beside the values.
#[derive(Clone, Copy)]
struct Wanted {
    synonyms: bool,
    documentation: bool,
    /// Version 0 knows no sources, only whether a value is a default.
    is_default: bool,
}

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: DescribeConfigsRequest,
) -> Result<DescribeConfigsResponse, AnswerTooLong> {
    let wanted = Wanted {
        synonyms: request.include_synonyms,
        documentation: request.include_documentation,
        is_default: context.api_version == 0,
    };
    // Tools ask for all topics at once. Once it is written, a topic takes 1.4 kB, and 4.3 with synonyms and
    // documentation.
    let mut results = ElementsWriter::new(DescribeConfigsResponse::encoding(context.api_version));
    let mut seen = HashSet::new();
    for resource in request.resources {
        context.pause().await;
        if !seen.insert((resource.resource_type, resource.resource_name.clone())) {
            continue;
        }
        let result = match entries(server, &resource).await {
            Ok(entries) => result(resource, entries, wanted),
            Err(refusal) => refused(resource, refusal),
        };
        let bytes = results.push(&result).or_else(|why| {
            error!("the settings of {} cannot be told: {why}", shown(&result.resource_name));
            let DescribeConfigsResult { resource_type, resource_name, .. } = result;
            let resource = DescribeConfigsResource { resource_type, resource_name, configuration_keys: None };
            results.push(&refused(resource, Refusal::new(ErrorCode::UnknownServerError, why.to_string())))
        });
        context.answer.charge(bytes.unwrap_or_default())?;
    }
    Ok(DescribeConfigsResponse { throttle_time_ms: 0, results: results.finish() })
}

fn refused(resource: DescribeConfigsResource, refusal: Refusal) -> DescribeConfigsResult {
    DescribeConfigsResult {
        error_code: refusal.code.code(),
        error_message: refusal.message,
        resource_type: resource.resource_type,
        resource_name: resource.resource_name,
        configs: Vec::new(),
    }
}

async fn entries(server: &Server, resource: &DescribeConfigsResource) -> Result<Vec<ConfigEntry>, Refusal> {
    let config = server.config.load();
    let name = resource.resource_name.as_str();
    match ResourceType::from_id(resource.resource_type) {
        ResourceType::Topic => {
            validate_name(name).map_err(|why| Refusal::from(&why))?;
            if server.metadata.image().topic(name).is_none() {
                return Err(ErrorCode::UnknownTopicOrPartition.into());
            }
            let overrides = match server.zookeeper.config(&ConfigEntity::Topic(name.to_string())).await {
                // As in Kafka, what cannot be understood is nothing; the log names it.
                Err(ZkError::Malformed(_)) => Properties::new(),
                stored => stored.map_err(|why| {
                    error!("Error processing describe configs request for topic {name}: {why}");
                    Refusal::new(ErrorCode::from(&why), why.to_string())
                })?,
            };
            Ok(describe_topic(&config, &overrides))
        }
        ResourceType::Broker if name.is_empty() => Ok(describe_default_broker(&config)),
        ResourceType::Broker => match name.parse::<i32>() {
            Err(_) => Err(Refusal::invalid_request(format!("Broker id must be an integer, but it is: {name}"))),
            Ok(id) if id == server.broker_id.0 => Ok(describe_broker(&config)),
            Ok(_) => Err(Refusal::invalid_request(format!(
                "Unexpected broker id, expected {} or empty string, but received {name}",
                server.broker_id
            ))),
        },
        ResourceType::BrokerLogger => {
            Err(Refusal::invalid_request("Log levels cannot be described yet; RUST_LOG sets them at start"))
        }
        ResourceType::ClientMetrics | ResourceType::Other => {
            Err(Refusal::invalid_request(format!("Unsupported resource type: {}", resource.resource_type)))
        }
    }
}

fn result(resource: DescribeConfigsResource, entries: Vec<ConfigEntry>, wanted: Wanted) -> DescribeConfigsResult {
    // Null and empty ask for everything.
    let keys: HashSet<String> = resource.configuration_keys.unwrap_or_default().into_iter().collect();
    let configs = entries
        .into_iter()
        .filter(|entry| keys.is_empty() || keys.contains(&entry.name))
        .map(|entry| config(entry, wanted))
        .collect();
    DescribeConfigsResult {
        error_code: ErrorCode::None.code(),
        error_message: None,
        resource_type: resource.resource_type,
        resource_name: resource.resource_name,
        configs,
    }
}

fn config(entry: ConfigEntry, wanted: Wanted) -> DescribeConfigsResourceResult {
    let synonyms = match wanted.synonyms {
        false => Vec::new(),
        true => entry
            .synonyms
            .into_iter()
            .map(|synonym| DescribeConfigsSynonym {
                name: synonym.name,
                value: synonym.value,
                source: synonym.source.id(),
            })
            .collect(),
    };
    DescribeConfigsResourceResult {
        name: entry.name,
        value: entry.value,
        read_only: entry.read_only,
        is_default: wanted.is_default && entry.source == ConfigSource::Default,
        config_source: entry.source.id(),
        is_sensitive: entry.is_sensitive,
        synonyms,
        config_type: entry.config_type.map_or(0, |config_type| config_type.id()),
        documentation: if wanted.documentation { entry.documentation.map(String::from) } else { None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::kafka_config::KafkaConfig;

    /// What one topic takes of an answer, in bytes.
    fn bytes_of_a_topic(synonyms: bool, documentation: bool) -> usize {
        let config = KafkaConfig::from_properties(&Properties::from([(
            "zookeeper.connect".to_owned(),
            "localhost:2181".to_owned(),
        )]));
        let entries = describe_topic(&config.expect("a configuration"), &Properties::new());
        let resource = DescribeConfigsResource {
            resource_type: 2,
            resource_name: "a.topic.with.a.name.of.usual.length".to_owned(),
            configuration_keys: None,
        };
        let result = result(resource, entries, Wanted { synonyms, documentation, is_default: false });
        let mut results = ElementsWriter::new(DescribeConfigsResponse::encoding(4));
        results.push(&result).expect("it is short")
    }

    /// `socket.response.max.bytes` is 64 MiB, and what admin tools ask for of 10,000 topics fits in.
    #[test]
    fn the_settings_of_ten_thousand_topics_fit_one_answer() {
        let fits = |synonyms, documentation| (64 << 20) / bytes_of_a_topic(synonyms, documentation);
        let (plain, with_all) = (fits(false, false), fits(true, true));
        assert!(plain > 40_000 && with_all > 15_000, "{plain} topics, {with_all} with synonyms and documentation");
    }
}
