//! Requests for single znodes, and for many at once.
use crate::error::{ZkError, is_connection_loss};
use crate::session::{CreateKind, Stat, ZooKeeper, request};
use crate::znode::PERSISTENT_ROOTS;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use zookeeper_client::{Error, MultiReadResult};

/// Znodes that are read with one request, where the server knows how.
const READS_TOGETHER_MAX: usize = 500;

/// One request among those that [`ZooKeeper::pipelined`] keeps under way.
pub type Request<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The data of a znode, `None` when there is none.
pub type Read = Result<Option<(Vec<u8>, Stat)>, ZkError>;

/// What became of a request for many znodes.
enum Together {
    /// One result for each.
    Read(Vec<Result<MultiReadResult, ZkError>>),
    /// The connection was lost, perhaps for the sake of an answer that was too long to be made or to arrive in time.
    TooMany,
    /// The server cannot do this.
    NotHere,
}

impl ZooKeeper {
    fn window(&self) -> usize {
        self.settings().max_in_flight_requests
    }

    /// Runs `send` for every item with at most `zookeeper.max.in.flight.requests` under way; outcomes in item order.
    pub async fn pipelined<'a, I, T>(
        &self,
        items: impl IntoIterator<Item = I>,
        send: impl FnMut(I) -> Request<'a, T>,
    ) -> Vec<T> {
        // Made before they are polled: a stream that makes them by and by could not move between threads.
        let requests: Vec<Request<'a, T>> = items.into_iter().map(send).collect();
        stream::iter(requests).buffered(self.window()).collect().await
    }

    /// The same for requests that are sent only as long as none of them fails: the first error is the outcome, what
    /// follows it is not sent, and what was under way is not waited for.
    pub async fn pipelined_until_one_fails<'a, I, T, E>(
        &self,
        items: impl IntoIterator<Item = I>,
        send: impl FnMut(I) -> Request<'a, Result<T, E>>,
    ) -> Result<Vec<T>, E> {
        let requests: Vec<Request<'a, Result<T, E>>> = items.into_iter().map(send).collect();
        stream::iter(requests).buffered(self.window()).try_collect().await
    }

    pub async fn get(&self, path: &str) -> Read {
        let outcome = request!(self, path, |client| client.get_data(path));
        match outcome {
            Ok((data, stat)) => Ok(Some((data, stat.into()))),
            Err(ZkError::NoNode { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The data of many znodes, in their order, with as few requests as the server allows.
    pub async fn get_many(&self, paths: &[String]) -> Vec<Read> {
        let chunks = self.chunks(paths);
        let read = self.pipelined(chunks, |chunk| self.get_together(chunk)).await;
        read.into_iter().flatten().collect()
    }

    /// Names of the children of many znodes, in their order; none for those that do not exist.
    pub async fn children_of_many(&self, paths: &[String]) -> Vec<Result<Vec<String>, ZkError>> {
        let chunks = self.chunks(paths);
        let listed = self.pipelined(chunks, |chunk| self.list_together(chunk)).await;
        listed.into_iter().flatten().collect()
    }

    fn chunks<'a>(&self, paths: &'a [String]) -> Vec<&'a [String]> {
        let bytes_max = self.payload_bytes_max();
        let mut chunks = Vec::new();
        let (mut from, mut bytes) = (0, 0);
        for (at, path) in paths.iter().enumerate() {
            // The path with its length, the watch, and what stands before each operation.
            bytes += path.len() + 4 + 1 + 9;
            if at - from == READS_TOGETHER_MAX || (bytes > bytes_max && at > from) {
                chunks.push(&paths[from..at]);
                (from, bytes) = (at, path.len() + 14);
            }
        }
        chunks.push(&paths[from..]);
        chunks
    }

    fn get_together<'a>(&'a self, paths: &'a [String]) -> Request<'a, Vec<Read>> {
        let result = |path: &String, result| match result {
            MultiReadResult::Data { data, stat } => Ok(Some((data, stat.into()))),
            MultiReadResult::Error { err: Error::NoNode } => Ok(None),
            other => Err(unread(path, other)),
        };
        Box::pin(async move {
            let together = self.read_together(paths, |reader, path| reader.add_get_data(path)).await;
            let halved = |part| self.get_together(part);
            self.in_parts(paths, together, result, halved, |path| Box::pin(self.get(path))).await
        })
    }

    fn list_together<'a>(&'a self, paths: &'a [String]) -> Request<'a, Vec<Result<Vec<String>, ZkError>>> {
        let result = |path: &String, result| match result {
            MultiReadResult::Children { children } => Ok(children),
            MultiReadResult::Error { err: Error::NoNode } => Ok(Vec::new()),
            other => Err(unread(path, other)),
        };
        Box::pin(async move {
            let together = self.read_together(paths, |reader, path| reader.add_get_children(path)).await;
            let halved = |part| self.list_together(part);
            self.in_parts(paths, together, result, halved, |path| Box::pin(self.children(path))).await
        })
    }

    /// What was read together, or else in halves, or else one by one.
    async fn in_parts<'a, T>(
        &'a self,
        paths: &'a [String],
        together: Together,
        result: impl Fn(&String, MultiReadResult) -> Result<T, ZkError>,
        halved: impl Fn(&'a [String]) -> Request<'a, Vec<Result<T, ZkError>>>,
        single: impl Fn(&'a String) -> Request<'a, Result<T, ZkError>>,
    ) -> Vec<Result<T, ZkError>> {
        match together {
            Together::Read(results) => results.into_iter().zip(paths).map(|(read, path)| result(path, read?)).collect(),
            Together::TooMany => {
                let (first, rest) = paths.split_at(paths.len() / 2);
                let mut read = halved(first).await;
                read.extend(halved(rest).await);
                read
            }
            Together::NotHere => self.pipelined(paths, single).await,
        }
    }

    async fn read_together(
        &self,
        paths: &[String],
        add: impl Fn(&mut zookeeper_client::MultiReader<'_>, &str) -> Result<(), Error>,
    ) -> Together {
        let failed = |error: ZkError| Together::Read(paths.iter().map(|_| Err(error.clone())).collect());
        loop {
            let (_permit, connection) = match self.admitted().await {
                Ok(admitted) => admitted,
                Err(error) => return failed(error),
            };
            if connection.lacks_multi_read.load(Ordering::Relaxed) {
                return Together::NotHere;
            }
            let mut reader = connection.client.new_multi_reader();
            // A path that no znode can have is refused by itself.
            let refused: Vec<Option<ZkError>> = paths
                .iter()
                .map(|path| add(&mut reader, path).err().map(|error| ZkError::from_client(path, error)))
                .collect();
            match reader.commit().await {
                Ok(results) => {
                    let mut results = results.into_iter();
                    let outcomes = refused.into_iter().zip(paths).map(|(refused, path)| match refused {
                        Some(error) => Err(error),
                        None => results.next().ok_or_else(|| ZkError::Other {
                            path: path.clone(),
                            reason: "the server answered for fewer znodes than it was asked for".to_owned(),
                        }),
                    });
                    return Together::Read(outcomes.collect());
                }
                Err(Error::Unimplemented) => connection.lacks_multi_read.store(true, Ordering::Relaxed),
                Err(error) if is_connection_loss(&error) && paths.len() > 1 => return Together::TooMany,
                Err(error) if is_connection_loss(&error) => {}
                Err(error) => return failed(ZkError::from_client(paths.first().map_or("/", String::as_str), error)),
            }
        }
    }

    pub async fn exists(&self, path: &str) -> Result<Option<Stat>, ZkError> {
        Ok(request!(self, path, |client| client.check_stat(path))?.map(Stat::from))
    }

    /// What is read from here on is no older than what any other client has read before.
    pub async fn sync(&self) -> Result<(), ZkError> {
        request!(self, "/", |client| client.sync("/"))
    }

    /// Names of the children in no particular order; none when the node does not exist.
    pub async fn children(&self, path: &str) -> Result<Vec<String>, ZkError> {
        let outcome = request!(self, path, |client| client.list_children(path));
        match outcome {
            Err(ZkError::NoNode { .. }) => Ok(Vec::new()),
            outcome => outcome,
        }
    }

    /// The node must exist. `expected_version` -1 matches any.
    pub async fn set(&self, path: &str, data: &[u8], expected_version: i32) -> Result<Stat, ZkError> {
        self.fits(path, data.len())?;
        Ok(request!(self, path, |client| client.set_data(path, data, Some(expected_version)))?.into())
    }

    /// The parent must exist. Returns the path, which differs from the given one for a sequential node.
    pub async fn create(&self, path: &str, data: &[u8], kind: CreateKind) -> Result<String, ZkError> {
        self.fits(path, data.len())?;
        let options = kind.mode().with_acls(self.acls_for(path));
        let (_, sequence) = request!(self, path, |client| client.create(path, data, &options))?;
        Ok(match kind {
            CreateKind::PersistentSequential => format!("{path}{sequence}"),
            _ => path.to_owned(),
        })
    }

    /// Creates the node and whichever of its parents is missing, the parents without data.
    pub async fn create_recursive(&self, path: &str, data: &[u8], kind: CreateKind) -> Result<String, ZkError> {
        match self.create(path, data, kind).await {
            Err(ZkError::NoNode { .. }) => {}
            outcome => return outcome,
        }
        // Upwards to the deepest parent that exists: creating one further up may not be allowed, even if it is there.
        let mut missing = Vec::new();
        for (end, _) in path.match_indices('/').skip(1).collect::<Vec<_>>().into_iter().rev() {
            match self.create(&path[..end], b"", CreateKind::Persistent).await {
                Ok(_) | Err(ZkError::NodeExists { .. }) => break,
                Err(ZkError::NoNode { .. }) => missing.push(end),
                Err(error) => return Err(error),
            }
        }
        for end in missing.into_iter().rev() {
            match self.create(&path[..end], b"", CreateKind::Persistent).await {
                Ok(_) | Err(ZkError::NodeExists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.create(path, data, kind).await
    }

    /// Whether there was a node to delete.
    pub async fn delete(&self, path: &str, expected_version: i32) -> Result<bool, ZkError> {
        let outcome = request!(self, path, |client| client.delete(path, Some(expected_version)));
        match outcome {
            Ok(()) => Ok(true),
            Err(ZkError::NoNode { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The persistent znodes of a cluster, as every broker makes sure of at startup. One that cannot be made is
    /// complained of, and left to those who need it.
    pub async fn create_persistent_roots(&self) -> Result<(), ZkError> {
        self.pipelined_until_one_fails(PERSISTENT_ROOTS.iter().copied(), |path| {
            Box::pin(async move {
                match self.create_recursive(path, b"", CreateKind::Persistent).await {
                    Ok(_) | Err(ZkError::NodeExists { .. }) => {
                        self.mended(path);
                        Ok(())
                    }
                    Err(error) if error.is_of_the_session() => Err(error),
                    // Who may not create children is told so even of those that are there.
                    Err(error) => {
                        if self.exists(path).await?.is_none() {
                            self.complain(path, &format!("{path} is missing and cannot be created"), &error);
                        }
                        Ok(())
                    }
                }
            })
        })
        .await
        .map(|_: Vec<()>| ())
    }
}

fn unread(path: &str, result: MultiReadResult) -> ZkError {
    match result {
        MultiReadResult::Error { err } => ZkError::from_client(path, err),
        other => ZkError::Other { path: path.to_owned(), reason: format!("the server answered a read with {other:?}") },
    }
}
