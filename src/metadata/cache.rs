//! The published image, and how others learn of a new one.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::metadata::image::{Image, Update};
use crate::model::TopicPartition;

/// Holds the current image. Reading it costs an atomic load.
pub struct MetadataCache {
    image: ArcSwap<Image>,
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
        MetadataCache {
            image: ArcSwap::from_pointee(Image::default()),
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
        let deleted = {
            let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let (image, deleted) = self.image.load().with(update);
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
}
