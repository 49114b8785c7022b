//! What the cluster has finalized in `/feature`: read before the broker shows itself, and followed for as long as it runs.
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/FinalizedFeatureChangeListener.scala.

use log::{error, info};
use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::session::{Stat, ZooKeeper};
use odradek_zookeeper::znode::feature::{Feature, PATH, Status};
use tokio::sync::watch;

use crate::metadata::features::{FinalizedFeatures, incompatible, supported};

/// What stands there; nothing, if nobody can tell.
fn finalized(zookeeper: &ZooKeeper, found: Option<(Vec<u8>, Stat)>) -> FinalizedFeatures {
    let Some((data, stat)) = found else { return FinalizedFeatures::default() };
    match Feature::decode(&data) {
        Ok(Feature { status: Status::Enabled, features, .. }) => {
            zookeeper.mended(PATH);
            FinalizedFeatures { epoch: i64::from(stat.version), levels: features }
        }
        Ok(Feature { status: Status::Disabled, .. }) => {
            zookeeper.mended(PATH);
            FinalizedFeatures::default()
        }
        Err(why) => {
            zookeeper.complain(PATH, "no feature is taken to be finalized", &why.into());
            FinalizedFeatures::default()
        }
    }
}

/// What is finalized now. The error names what this broker cannot take part in.
pub async fn read(zookeeper: &ZooKeeper) -> Result<Result<FinalizedFeatures, String>, ZkError> {
    let found = loop {
        match zookeeper.get(PATH).await {
            // The next request waits for the next session.
            Err(ZkError::SessionExpired) => {}
            found => break found?,
        }
    };
    let finalized = finalized(zookeeper, found);
    let unknown = incompatible(&supported(), &finalized.levels);
    Ok(match unknown.is_empty() {
        true => Ok(finalized),
        false => Err(format!(
            "{PATH} has finalized features that this broker does not support: {unknown:?}; it supports, from the lowest \
             to the highest level, {:?}",
            supported()
        )),
    })
}

/// Publishes what is finalized whenever that changes.
pub async fn follow(
    zookeeper: ZooKeeper,
    published: watch::Sender<FinalizedFeatures>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut watch = zookeeper.watch_data(PATH);
    loop {
        let found = tokio::select! {
            found = watch.next() => found,
            _ = shutdown.wait_for(|stops| *stops) => return,
        };
        let Ok(found) = found else { return };
        let mut now = finalized(&zookeeper, found);
        let unknown = incompatible(&supported(), &now.levels);
        if !unknown.is_empty() {
            error!(
                "{PATH} has finalized features that this broker does not support, and of which it tells nobody: {unknown:?}"
            );
            now.levels.retain(|name, _| !unknown.contains_key(name));
        }
        published.send_if_modified(|before| {
            if before.levels != now.levels {
                info!("the features that the cluster has finalized are {:?}, of epoch {}", now.levels, now.epoch);
            }
            let is_other = *before != now;
            *before = now;
            is_other
        });
    }
}
