//! DescribeLogDirs (KIP-113): the log directories of this broker and the replicas in them.
//! Source: kafka 3.9.1 core/src/main/scala/kafka/server/KafkaApis.scala (handleDescribeLogDirsRequest) and
//! ReplicaManager.scala (describeLogDirs).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use log::debug;

use crate::api::answer::AnswerTooLong;
use crate::api::topic_numbers::NamedOnce;
use crate::api::{RequestContext, Server};
use crate::log::Log;
use crate::log::dirs::described::DescribedDir;
use crate::model::{TOPIC_NAME_BYTES_MAX, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::describe_log_dirs::{
    DescribableLogDirTopic, DescribeLogDirsPartition, DescribeLogDirsRequest, DescribeLogDirsResponse,
    DescribeLogDirsResult, DescribeLogDirsTopic,
};
use crate::replica::replica_manager::ReplicaManager;

/// Of a log whose partition no controller has spoken of yet. Source: kafka 3.9.1 DescribeLogDirsResponse.java.
const UNKNOWN_LAG: i64 = -1;

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: DescribeLogDirsRequest,
) -> Result<DescribeLogDirsResponse, AnswerTooLong> {
    let log_dirs = Arc::clone(server.replicas.log_dirs());
    let described = server.replicas.io().run(move || log_dirs.described()).await;
    let Ok(described) = described else {
        let error_code = ErrorCode::KafkaStorageError.code();
        return Ok(DescribeLogDirsResponse { error_code, ..Default::default() });
    };
    let mut dirs = Dirs::of(described);
    match request.topics {
        None => {
            let log_dirs = server.replicas.log_dirs();
            for (logs, is_future) in [(log_dirs.logs(), false), (log_dirs.future_logs(), true)] {
                for log in logs {
                    context.pause().await;
                    dirs.add(server, context, &log, is_future).await?;
                }
            }
        }
        Some(topics) => add_named(server, context, &topics, &mut dirs).await?,
    }
    Ok(DescribeLogDirsResponse { results: dirs.results, ..Default::default() })
}

async fn add_named(
    server: &Server,
    context: &RequestContext,
    topics: &[DescribableLogDirTopic],
    dirs: &mut Dirs,
) -> Result<(), AnswerTooLong> {
    let mut seen = NamedOnce::default();
    // None here has a longer name.
    for topic in topics.iter().filter(|topic| topic.topic.len() <= TOPIC_NAME_BYTES_MAX) {
        let number = seen.number_of(&topic.topic);
        let name: Arc<str> = topic.topic.as_str().into();
        for &partition in &topic.partitions {
            context.pause().await;
            if !seen.is_new(number, partition) {
                continue;
            }
            let name = TopicPartition { topic: Arc::clone(&name), partition };
            let log_dirs = server.replicas.log_dirs();
            for (log, is_future) in [(log_dirs.get(&name), false), (log_dirs.get_future(&name), true)] {
                if let Some(log) = log {
                    dirs.add(server, context, &log, is_future).await?;
                }
            }
        }
    }
    Ok(())
}

/// The directories of the answer, and where each topic stands in them.
struct Dirs {
    results: Vec<DescribeLogDirsResult>,
    by_path: HashMap<PathBuf, usize>,
    topics: HashMap<(usize, Arc<str>), usize>,
}

impl Dirs {
    fn of(described: Vec<DescribedDir>) -> Dirs {
        let paths = described.iter().enumerate().map(|(at, dir)| (dir.path.clone(), at));
        Dirs { by_path: paths.collect(), topics: HashMap::new(), results: described.iter().map(result_of).collect() }
    }

    async fn add(
        &mut self,
        server: &Server,
        context: &RequestContext,
        log: &Arc<Log>,
        is_future: bool,
    ) -> Result<(), AnswerTooLong> {
        let Some(result) = self.dir_of(&log.parent_dir()) else { return Ok(()) };
        let TopicPartition { topic, partition } = log.topic_partition();
        let (replicas, looked_at) = (Arc::clone(&server.replicas), Arc::clone(log));
        let look = move || (looked_at.size(), lag(&replicas, &looked_at, is_future));
        let may_wait = log.is_held_up() || server.replicas.is_held_up(topic, *partition);
        let (size, offset_lag) = if may_wait {
            // Without a thread the broker is shutting down.
            let looked = server.replicas.io().run_in(Some(&log.parent_dir()), look).await;
            looked.unwrap_or((0, UNKNOWN_LAG))
        } else {
            look()
        };
        let topics = &mut self.results[result].topics;
        let at = match self.topics.get(&(result, Arc::clone(topic))) {
            Some(at) => *at,
            None => {
                self.topics.insert((result, Arc::clone(topic)), topics.len());
                context.answer.push(topics, DescribeLogDirsTopic { name: topic.to_string(), ..Default::default() })?;
                topics.len() - 1
            }
        };
        let described = DescribeLogDirsPartition {
            partition_index: *partition,
            partition_size: i64::try_from(size).unwrap_or(i64::MAX),
            offset_lag,
            is_future_key: is_future,
        };
        context.answer.push(&mut topics[at].partitions, described)
    }

    /// Of an offline directory nothing is told but that.
    fn dir_of(&self, path: &Path) -> Option<usize> {
        let at = self.by_path.get(path).copied();
        at.filter(|&at| self.results[at].error_code == ErrorCode::None.code())
    }
}

fn result_of(dir: &DescribedDir) -> DescribeLogDirsResult {
    let log_dir = dir.path.display().to_string();
    match &dir.volume {
        Ok(volume) => DescribeLogDirsResult {
            log_dir,
            total_bytes: i64::try_from(volume.total_bytes).unwrap_or(i64::MAX),
            usable_bytes: i64::try_from(volume.usable_bytes).unwrap_or(i64::MAX),
            ..Default::default()
        },
        Err(why) => {
            debug!("{log_dir} cannot be described: {why}");
            let error_code = ErrorCode::KafkaStorageError.code();
            DescribeLogDirsResult { log_dir, error_code, ..Default::default() }
        }
    }
}

/// How far a log is behind the high watermark, or a future log behind the log that it will replace.
fn lag(replicas: &ReplicaManager, log: &Log, is_future: bool) -> i64 {
    let TopicPartition { topic, partition } = log.topic_partition();
    let hosted = replicas.partition(topic, *partition).ok().and_then(|partition| partition.log());
    let Some(current) = hosted else { return UNKNOWN_LAG };
    let end = log.log_end_offset().0;
    if is_future { current.log_end_offset().0 - end } else { (current.high_watermark().0 - end).max(0) }
}
