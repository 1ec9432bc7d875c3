//! Where there are no modes (Windows): the folder's own access list is what it inherits from the user's profile.

use std::fs::{self, Metadata, OpenOptions};
use std::io;
use std::path::Path;

use super::StoreError;

/// Creates a directory.
pub(super) fn create_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir(dir)
}

/// Nothing to add here.
pub(super) fn restrict(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

/// Nothing that could be checked without the system's own calls.
#[expect(clippy::unnecessary_wraps, reason = "its pair refuses files")]
pub(super) fn check(_path: &Path, _metadata: &Metadata, _fix: &'static str) -> Result<(), StoreError> {
    Ok(())
}

/// A rename lasts by itself.
#[expect(clippy::unnecessary_wraps, reason = "its pair can fail")]
pub(super) fn sync_dir(_dir: &Path) -> io::Result<()> {
    Ok(())
}
