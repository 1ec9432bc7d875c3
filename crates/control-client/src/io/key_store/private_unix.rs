//! Files for nobody but their owner, by owner and mode; links are not followed.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::StoreError;

/// Creates a directory for its owner alone.
pub(super) fn create_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(dir)
}

/// A file that is created is for its owner alone, and no link is followed.
pub(super) fn restrict(options: &mut OpenOptions) -> &mut OpenOptions {
    let no_follow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    options.mode(0o600).custom_flags(no_follow)
}

/// Refuses what belongs to or is open to somebody else. `fix` is the mode to name as a cure.
pub(super) fn check(path: &Path, metadata: &Metadata, fix: &'static str) -> Result<(), StoreError> {
    let path = path.to_owned();
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(StoreError::ForeignOwner {
            path,
            owner: metadata.uid(),
        });
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(StoreError::WideMode { path, mode, fix });
    }
    Ok(())
}

/// Makes a rename in the directory last.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
