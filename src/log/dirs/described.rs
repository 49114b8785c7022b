//! What each directory is and how much room its volume has.
//! Source: kafka 3.9 core/.../server/ReplicaManager.scala (describeLogDirs).

use std::path::{Path, PathBuf};

use super::LogDirs;
use crate::log::error::{IoContext, LogError};
use crate::log::files;
use crate::model::lock::about_to_wait_for_disk;

/// A directory as it stands in `log.dirs`, absolute.
#[derive(Debug)]
pub struct DescribedDir {
    pub path: PathBuf,
    pub volume: Result<Volume, LogError>,
}

/// The volume that a directory is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Volume {
    pub total_bytes: u64,
    /// For this process.
    pub usable_bytes: u64,
}

impl LogDirs {
    /// All directories, offline ones too, in the order of the setting.
    pub fn described(&self) -> Vec<DescribedDir> {
        let described = self.dirs.iter().map(|dir| {
            let online = dir.shared.check();
            let volume = online.and_then(|()| dir.shared.observe(volume_of(dir.shared.path())));
            DescribedDir { path: dir.shared.path().to_path_buf(), volume }
        });
        described.collect()
    }
}

/// Source: JDK 17 src/java.base/unix/classes/sun/nio/fs/UnixFileStore.java (getTotalSpace, getUsableSpace).
fn volume_of(dir: &Path) -> Result<Volume, LogError> {
    about_to_wait_for_disk();
    let told = files::volume(dir).doing("ask for the volume of", dir)?;
    let bytes = |blocks: u64| blocks.saturating_mul(told.f_frsize);
    Ok(Volume { total_bytes: bytes(told.f_blocks), usable_bytes: bytes(told.f_bavail) })
}
