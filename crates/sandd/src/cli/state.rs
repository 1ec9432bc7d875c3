//! State directories, one folder a role (S-04, S-05), and the id that a daemon keeps in its own.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::CliError;
use crate::local::{CONTROLLER_SOCKET, NODE_SOCKET};
use crate::wire::ids::DaemonId;

/// What a process is; each has a folder of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Role {
    /// A bare mesh node.
    Node,
    /// A controller.
    Controller,
    /// A worker.
    Daemon,
    /// A coordinator.
    Coordinator,
}

impl Role {
    /// Name of its folder.
    pub(super) fn folder(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Controller => "controller",
            Self::Daemon => "daemon",
            Self::Coordinator => "coordinator",
        }
    }
}

/// The directory that was given, else the role's folder in the default one.
pub(super) fn directory(given: Option<&Path>, role: Role) -> Result<PathBuf, CliError> {
    match given {
        Some(path) => Ok(path.to_path_buf()),
        None => Ok(base()?.join(role.folder())),
    }
}

fn base() -> Result<PathBuf, CliError> {
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/sandd".into());
    }
    let variable = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state = variable("XDG_STATE_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/state")));
    let missing = "there is no home directory for the state, give a directory with --tunnel-state-dir";
    state
        .map(|path| path.join("sandd"))
        .ok_or_else(|| CliError::failed(missing))
}

/// Makes the directory with mode 0700, or checks that it is ours alone.
pub(super) fn ensure(path: &Path) -> Result<(), CliError> {
    let failed = |error: std::io::Error| {
        CliError::failed(format!(
            "the state directory {} cannot be used: {error}; give another with --tunnel-state-dir",
            path.display()
        ))
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed)?;
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(CliError::failed(format!(
            "the state directory {} belongs to another user",
            path.display()
        )));
    }
    if metadata.mode() & 0o077 != 0 {
        let path = path.display();
        let message = format!("the state directory {path} is open to other users, run: chmod 700 {path}");
        return Err(CliError::failed(message));
    }
    Ok(())
}

/// Where the controller answers: the flag, else the state directory.
pub(super) fn controller_socket(socket: Option<&Path>, state_dir: Option<&Path>) -> Result<PathBuf, CliError> {
    match socket {
        Some(path) => Ok(path.to_path_buf()),
        None => Ok(directory(state_dir, Role::Controller)?.join(CONTROLLER_SOCKET)),
    }
}

/// Where the mesh node in a state directory answers.
pub(super) fn node_socket(state_dir: &Path) -> PathBuf {
    state_dir.join(NODE_SOCKET)
}

/// A daemon id from the state directory; locked as long as this lives, so that two daemons never share one.
#[derive(Debug)]
pub(super) struct KeptId {
    pub id: DaemonId,
    _lock: File,
}

/// Why there is no kept id.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeptIdError {
    #[error("another daemon has the id in {}", .0.display())]
    InUse(PathBuf),
    #[error("{} cannot be used: {reason}", path.display())]
    Unusable { path: PathBuf, reason: String },
}

/// Reads the id, or makes one and keeps it.
pub(super) fn kept_id(directory: &Path) -> Result<KeptId, KeptIdError> {
    let path = directory.join("daemon-id");
    let unusable = |reason: String| KeptIdError::Unusable {
        path: path.clone(),
        reason,
    };
    let opened = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path);
    let mut file = opened.map_err(|error| unusable(error.to_string()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(KeptIdError::InUse(path)),
        Err(TryLockError::Error(error)) => return Err(unusable(error.to_string())),
    }
    let mut text = String::new();
    Read::by_ref(&mut file)
        .take(1024)
        .read_to_string(&mut text)
        .map_err(|error| unusable(error.to_string()))?;
    if !text.trim().is_empty() {
        let id = DaemonId::from_flag(text.trim()).map_err(|error| unusable(error.to_string()))?;
        return Ok(KeptId { id, _lock: file });
    }
    let id = DaemonId::random();
    let written = writeln!(file, "{id}").and_then(|()| file.sync_all());
    written.map_err(|error| unusable(error.to_string()))?;
    Ok(KeptId { id, _lock: file })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_id_is_kept_and_not_shared() {
        let directory = tempfile::tempdir().unwrap();
        let first = kept_id(directory.path()).unwrap();
        assert!(matches!(kept_id(directory.path()), Err(KeptIdError::InUse(_))));
        let id = first.id.clone();
        drop(first);
        assert_eq!(kept_id(directory.path()).unwrap().id, id);
        std::fs::write(directory.path().join("daemon-id"), "two words\n").unwrap();
        assert!(matches!(kept_id(directory.path()), Err(KeptIdError::Unusable { .. })));
    }

    #[test]
    fn a_directory_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        ensure(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = ensure(&path).unwrap_err();
        assert!(error.message().contains("chmod 700"), "{error:?}");
    }
}
