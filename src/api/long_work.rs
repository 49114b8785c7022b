//! Work of a request that cannot pause, such as reading a long request or writing a long answer: the thread's other tasks
//! go on elsewhere meanwhile. As much of it at once as there are network threads, so that neither threads nor what is
//! decoded and encoded on them grows with the number of those who ask.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use tokio::sync::Semaphore;
use tokio::task::block_in_place;

pub struct LongWork {
    places: Semaphore,
    /// For what can wait for no place: as much of it is done beside the network threads, and more of it on them.
    places_now: Semaphore,
}

impl LongWork {
    pub fn new(at_once: usize) -> LongWork {
        LongWork { places: Semaphore::new(at_once), places_now: Semaphore::new(at_once) }
    }

    /// Runs it at once if it is short, else when there is a place for it.
    pub async fn run<T>(&self, is_long: bool, work: impl FnOnce() -> T) -> T {
        if !is_long {
            return work();
        }
        // Nobody closes the semaphore.
        let _place = self.places.acquire().await;
        block_in_place(work)
    }

    /// Runs it at once, wherever there is a place for it. For what keeps the order of requests, and for what is done
    /// within [`LongWork::poll`], which may have the last place. And for a produce: whoever waits for a place and is not
    /// polled when it is free keeps it from everybody, and a produce is polled once when it starts, and then not before
    /// those ahead of it are done.
    pub fn run_now<T>(&self, is_long: bool, work: impl FnOnce() -> T) -> T {
        match is_long.then(|| self.places_now.try_acquire()) {
            Some(Ok(_place)) => block_in_place(work),
            Some(Err(_)) | None => work(),
        }
    }

    /// Runs each step of a handler, which may not pause between all that it does.
    pub async fn poll<F: Future>(&self, is_long: bool, handled: F) -> F::Output {
        if !is_long {
            return handled.await;
        }
        let mut handled = pin!(handled);
        loop {
            let polled = {
                let _place = self.places.acquire().await;
                poll_fn(|context| Poll::Ready(block_in_place(|| handled.as_mut().poll(context)))).await
            };
            match polled {
                Poll::Ready(output) => return output,
                Poll::Pending => until_woken().await,
            }
        }
    }
}

/// Gives the thread away until somebody wakes the task.
async fn until_woken() {
    let mut is_woken = false;
    poll_fn(|_| match std::mem::replace(&mut is_woken, true) {
        false => Poll::Pending,
        true => Poll::Ready(()),
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    #[derive(Default)]
    struct AtOnce {
        now: AtomicUsize,
        most: AtomicUsize,
    }

    impl AtOnce {
        fn count(&self) {
            self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::yield_now();
            self.now.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn however_many_have_long_work_at_once_few_do_it_and_all_get_it_done() {
        let (long_work, at_once) = (Arc::new(LongWork::new(2)), Arc::new(AtOnce::default()));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..300 {
            let (long_work, at_once) = (Arc::clone(&long_work), Arc::clone(&at_once));
            tasks.spawn(async move {
                long_work.run(true, || at_once.count()).await;
                let steps = async {
                    at_once.count();
                    tokio::task::yield_now().await;
                    // It has a place already.
                    long_work.run_now(true, || ());
                    at_once.count();
                };
                long_work.poll(true, steps).await;
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.expect("each ends");
        }
        let most = at_once.most.load(Ordering::SeqCst);
        assert!((1..=2).contains(&most), "{most} at once");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_handler_that_waits_has_no_place_and_goes_on_when_it_is_woken() {
        let long_work = Arc::new(LongWork::new(1));
        let (wake, woken) = oneshot::channel();
        let waiting = {
            let long_work = Arc::clone(&long_work);
            tokio::spawn(async move { long_work.poll(true, woken).await })
        };
        assert_eq!(long_work.run(true, || 7).await, 7);
        assert!(wake.send(8).is_ok());
        assert_eq!(waiting.await.expect("it ends"), Ok(8));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_must_be_done_now_waits_for_no_place() {
        let long_work = LongWork::new(1);
        assert_eq!(long_work.run_now(true, || long_work.run_now(true, || 7)), 7);
    }
}
