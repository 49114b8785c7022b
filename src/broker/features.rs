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

/// An operator who takes a feature back leaves `/feature` there, enabled and without it: somebody else was at it, perhaps a
/// controller that knows no features.
fn is_lost(before: &FinalizedFeatures, now: &FinalizedFeatures) -> bool {
    !before.levels.is_empty() && *now == FinalizedFeatures::default()
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
            if is_lost(before, &now) {
                error!(
                    "{PATH}, in which {:?} were finalized, has been deleted or disabled, and not by kafka-features.sh: clients \
                     are told of no feature any more; look for a controller that is not one of ours, and finalize them again",
                    before.levels
                );
            } else if before.levels != now.levels {
                info!("the features that the cluster has finalized are {:?}, of epoch {}", now.levels, now.epoch);
            }
            let is_other = *before != now;
            *before = now;
            is_other
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::features::FeatureLevels;
    use crate::model::transaction_version::TRANSACTION_VERSION;

    #[test]
    fn what_was_finalized_is_lost_with_its_znode_and_not_by_a_downgrade() {
        let one = FeatureLevels::from([(TRANSACTION_VERSION.to_owned(), 2)]);
        let finalized = FinalizedFeatures { epoch: 3, levels: one };
        let taken_back = FinalizedFeatures { epoch: 4, levels: FeatureLevels::new() };
        let nothing = FinalizedFeatures::default();
        let lost = [(&finalized, &nothing), (&finalized, &taken_back), (&taken_back, &nothing), (&nothing, &finalized)];
        assert_eq!(lost.map(|(before, now)| is_lost(before, now)), [true, false, false, false]);
    }
}
