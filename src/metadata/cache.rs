//! The published image, and how others learn of a new one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::metadata::image::{Image, Topic, Update};
use crate::model::TopicPartition;

/// How long an answer waits for what the controller tells first. Kafka's brokers take no request until they have started
/// whole, by when it has mostly come.
const WAIT_TO_BE_TOLD: Duration = Duration::from_secs(5);
/// After the first update nobody waits for topics any more: it may be that only their settings are left.
const TOPICS_AFTER_FIRST_UPDATE: Duration = Duration::from_secs(30);

/// Holds the current image. Reading it costs an atomic load.
pub struct MetadataCache {
    image: ArcSwap<Image>,
    /// The cluster had topics when this broker started, of which it has not been told yet.
    expects_topics: AtomicBool,
    first_update: OnceLock<Instant>,
    /// Serialises writers, so that no update is computed from an image that another has just replaced.
    writer: Mutex<()>,
    changed: watch::Sender<u64>,
}

impl Default for MetadataCache {
    fn default() -> MetadataCache {
        MetadataCache::new()
    }
}

impl MetadataCache {
    pub fn new() -> MetadataCache {
        MetadataCache::after_start(false)
    }

    /// Of a broker that has just started.
    pub fn after_start(expects_topics: bool) -> MetadataCache {
        MetadataCache {
            image: ArcSwap::from_pointee(Image::default()),
            expects_topics: expects_topics.into(),
            first_update: OnceLock::new(),
            writer: Mutex::new(()),
            changed: watch::Sender::new(0),
        }
    }

    /// The current image. Hold it as long as one answer is being made, so that the answer agrees with itself.
    pub fn image(&self) -> Arc<Image> {
        self.image.load_full()
    }

    /// Publishes the image that follows from `update`, and returns the partitions that it deleted.
    pub fn apply(&self, update: Update) -> Vec<TopicPartition> {
        self.publish(|image| {
            let (image, deleted) = image.with(update);
            self.first_update.get_or_init(Instant::now);
            if image.topics().len() != 0 {
                self.expects_topics.store(false, Ordering::Release);
            }
            (image, deleted)
        })
    }

    /// Publishes the image without those of the topics of which nothing has been told since they were found in it, and returns
    /// the partitions that are gone with them.
    pub fn forget(&self, topics: &[Arc<Topic>]) -> Vec<TopicPartition> {
        self.publish(|image| image.without(topics))
    }

    fn publish(&self, next: impl FnOnce(&Image) -> (Image, Vec<TopicPartition>)) -> Vec<TopicPartition> {
        let deleted = {
            let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let (image, deleted) = next(&self.image.load());
            self.image.store(Arc::new(image));
            deleted
        };
        self.changed.send_modify(|generation| *generation = generation.wrapping_add(1));
        deleted
    }

    /// Counts the images published; whoever waits for a topic to appear awaits `changed()` on it.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Waits, after a start, to be told of the live brokers, this one among them, and of topics if there are some. A new
    /// controller tells of topics only once those that have them have been told to lead and follow.
    /// Source: kafka 3.9.1 core/src/main/scala/kafka/controller/KafkaController.scala, onControllerFailover.
    pub async fn until_told(&self, asked: Instant) {
        let deadline = asked + WAIT_TO_BE_TOLD;
        self.wait_for(deadline, |image| (!image.brokers.is_empty()).then_some(())).await;
        if let Some(first_update) = self.first_update.get() {
            let deadline = deadline.min(*first_update + TOPICS_AFTER_FIRST_UPDATE);
            self.wait_for(deadline, |_| (!self.expects_topics.load(Ordering::Acquire)).then_some(())).await;
        }
    }

    /// Waits until `found` sees what it looks for in an image. `None` when the deadline passes first.
    pub async fn wait_for<T>(&self, deadline: Instant, mut found: impl FnMut(&Image) -> Option<T>) -> Option<T> {
        // Mostly it is there, and nobody has to be told of changes.
        if let Some(value) = found(&self.image.load()) {
            return Some(value);
        }
        let mut changes = self.changes();
        loop {
            changes.mark_unchanged();
            if let Some(value) = found(&self.image.load()) {
                return Some(value);
            }
            match tokio::time::timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metadata::image::tests::{partition, update};

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_a_topic_is_woken_by_the_update_that_brings_it() {
        let cache = Arc::new(MetadataCache::new());
        let deadline = Instant::now() + Duration::from_secs(5);
        let waiting = tokio::spawn({
            let cache = Arc::clone(&cache);
            async move { cache.wait_for(deadline, |image| image.topic("orders").map(|topic| topic.partitions.len())).await }
        });
        tokio::task::yield_now().await;
        cache.apply(update(vec![partition("other", 0, 1)]));
        cache.apply(update(vec![partition("orders", 0, 1), partition("orders", 1, 1)]));
        assert_eq!(waiting.await.expect("the waiting task ends"), Some(2));
        assert_eq!(Instant::now() + Duration::from_secs(5), deadline, "no time passed");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_topic_ends_at_the_deadline() {
        let cache = MetadataCache::new();
        let deadline = Instant::now() + Duration::from_millis(100);
        assert_eq!(cache.wait_for(deadline, |image| image.topic("orders").map(|_| ())).await, None);
        assert!(Instant::now() >= deadline);
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_expects_topics_waits_to_be_told_of_them_but_not_for_ever() {
        let cache = Arc::new(MetadataCache::after_start(true));
        let waiting = tokio::spawn({
            let cache = Arc::clone(&cache);
            async move { cache.until_told(Instant::now()).await }
        });
        cache.apply(update(vec![]));
        // Of the test's own clock, which is paused: it passes once everybody waits.
        tokio::time::sleep(WAIT_TO_BE_TOLD / 2).await;
        assert!(!waiting.is_finished(), "it has been told of brokers alone");
        cache.apply(update(vec![partition("orders", 0, 1)]));
        waiting.await.expect("it has been told of a topic");

        let cache = MetadataCache::after_start(true);
        cache.apply(update(vec![]));
        let began = Instant::now();
        cache.until_told(began).await;
        assert_eq!(Instant::now(), began + WAIT_TO_BE_TOLD, "no topic came");
        tokio::time::advance(TOPICS_AFTER_FIRST_UPDATE).await;
        let began = Instant::now();
        cache.until_told(began).await;
        assert_eq!(Instant::now(), began, "none will");
        let began = Instant::now();
        let cache = MetadataCache::new();
        cache.apply(update(vec![]));
        cache.until_told(began).await;
        assert_eq!(Instant::now(), began, "none is expected");
    }
}
