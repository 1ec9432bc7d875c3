//! Where a node's identity is kept: [`FileStore`] in a locked directory, [`MemoryStore`] for nodes that forget.
//!
//! The directory is 0700 and ours, its files are 0600 from their first byte; a file is replaced by writing another one,
//! syncing it, renaming it and syncing the directory (S-04). One process holds the directory at a time (S-05). What
//! cannot be read is an error, never a reason to make a new identity (S-10).

use std::collections::BTreeMap;
#[cfg_attr(unix, path = "key_store/private_unix.rs")]
#[cfg_attr(not(unix), path = "key_store/private_other.rs")]
mod private;

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::keys::{MachinePrivateKey, MachinePublicKey, NodePrivateKey, NodePublicKey};
use crate::netmap::RegionId;

/// Why state cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has the directory.
    #[error("state directory {} is in use by process {pid}: stop that one or give another directory", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Who has it.
        pid: String,
    },
    /// Others could read or write it.
    #[error("{} has mode {mode:03o}, which lets others in: run chmod {fix} {}", path.display(), path.display())]
    WideMode {
        /// File or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        fix: &'static str,
    },
    /// It belongs to somebody else.
    #[error("{} belongs to user {owner}, not to this process's user: give a directory of its own", path.display())]
    ForeignOwner {
        /// File or directory.
        path: PathBuf,
        /// User id of the owner.
        owner: u32,
    },
    /// It holds something else than was written.
    #[error("{} is damaged ({problem}): restore it, or remove the directory to join as a new node", path.display())]
    Damaged {
        /// File.
        path: PathBuf,
        /// What is wrong, without any of its content.
        problem: String,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A node's identity and what it must remember of its coordinator.
#[derive(Debug, Clone)]
pub struct NodeState {
    /// Identity of the device; kept for ever.
    pub machine_key: MachinePrivateKey,
    /// The node key that the coordinator knows.
    pub node_key: Option<NodePrivateKey>,
    /// A node key that a registration under way has announced, or will.
    pub trying_node_key: Option<NodePrivateKey>,
    /// Key of each coordinator by URL (S-09).
    pub control_keys: BTreeMap<String, MachinePublicKey>,
    /// URL of the coordinator that knows `node_key`.
    pub registered_at: Option<String>,
    /// Home relay region of the last run.
    pub home: Option<RegionId>,
    /// Keys of relay servers by host and port, so that a login costs a round trip less.
    pub relay_keys: BTreeMap<String, NodePublicKey>,
}

impl NodeState {
    /// A new identity.
    #[must_use]
    pub fn generate() -> Self {
        Self {
            machine_key: MachinePrivateKey::generate(),
            node_key: None,
            trying_node_key: Some(NodePrivateKey::generate()),
            control_keys: BTreeMap::new(),
            registered_at: None,
            home: None,
            relay_keys: BTreeMap::new(),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct StateFile {
    version: u32,
    machine_private_key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node_private_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trying_node_private_key: Option<String>,
    #[serde(default)]
    control_keys: BTreeMap<String, MachinePublicKey>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    registered_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    home: Option<RegionId>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    relay_keys: BTreeMap<String, NodePublicKey>,
}

impl Drop for StateFile {
    fn drop(&mut self) {
        self.machine_private_key.zeroize();
        self.node_private_key.zeroize();
        self.trying_node_private_key.zeroize();
    }
}

const VERSION: u32 = 1;

fn encode(state: &NodeState) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
    let text = |key: &NodePrivateKey| key.to_secret_text().to_string();
    let file = StateFile {
        version: VERSION,
        machine_private_key: state.machine_key.to_secret_text().to_string(),
        node_private_key: state.node_key.as_ref().map(text),
        trying_node_private_key: state.trying_node_key.as_ref().map(text),
        control_keys: state.control_keys.clone(),
        registered_at: state.registered_at.clone(),
        home: state.home,
        relay_keys: state.relay_keys.clone(),
    };
    // Room from the start, so that no growing buffer leaves a copy of a key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(
        4096 + 512 * (state.control_keys.len() + state.relay_keys.len()),
    ));
    serde_json::to_writer_pretty(&mut *bytes, &file)?;
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<NodeState, String> {
    // A JSON error may quote what it found, which here may be a key.
    let file: StateFile = serde_json::from_slice(bytes).map_err(|error| {
        format!(
            "not the expected json at line {} column {}",
            error.line(),
            error.column()
        )
    })?;
    if file.version != VERSION {
        return Err(format!("written by another version, number {}", file.version));
    }
    let node = |text: &Option<String>| text.as_deref().map(NodePrivateKey::from_secret_text).transpose();
    let named = |name: &'static str| move |error: crate::keys::KeyParseError| format!("{name}: {error}");
    Ok(NodeState {
        machine_key: MachinePrivateKey::from_secret_text(&file.machine_private_key).map_err(named("machine key"))?,
        node_key: node(&file.node_private_key).map_err(named("node key"))?,
        trying_node_key: node(&file.trying_node_private_key).map_err(named("new node key"))?,
        control_keys: file.control_keys.clone(),
        registered_at: file.registered_at.clone(),
        home: file.home,
        relay_keys: file.relay_keys.clone(),
    })
}

/// Keeps a node's state. Calls block, so the client makes them off its task.
pub trait StateStore: Send + Sync + fmt::Debug {
    /// The identity, if there is one.
    ///
    /// # Errors
    /// [`StoreError`] when there is one that cannot be read.
    fn load(&self) -> Result<Option<NodeState>, StoreError>;

    /// Keeps the identity; once this returns it survives a crash.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be written.
    fn save(&self, state: &NodeState) -> Result<(), StoreError>;

    /// The last network map as JSON, if there is one.
    ///
    /// # Errors
    /// [`StoreError`] when there is one that cannot be read.
    fn load_netmap(&self) -> Result<Option<Vec<u8>>, StoreError>;

    /// Keeps or forgets the network map.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be written.
    fn save_netmap(&self, netmap: Option<&[u8]>) -> Result<(), StoreError>;
}

/// Forgets everything at exit; the node joins as a new one each time.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<(Option<NodeState>, Option<Vec<u8>>)>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn with<T>(&self, use_state: impl FnOnce(&mut (Option<NodeState>, Option<Vec<u8>>)) -> T) -> T {
        use_state(&mut self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl StateStore for MemoryStore {
    fn load(&self) -> Result<Option<NodeState>, StoreError> {
        Ok(self.with(|state| state.0.clone()))
    }

    fn save(&self, state: &NodeState) -> Result<(), StoreError> {
        self.with(|kept| kept.0 = Some(state.clone()));
        Ok(())
    }

    fn load_netmap(&self) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.with(|state| state.1.clone()))
    }

    fn save_netmap(&self, netmap: Option<&[u8]>) -> Result<(), StoreError> {
        self.with(|kept| kept.1 = netmap.map(<[u8]>::to_vec));
        Ok(())
    }
}

/// State in a directory that this process alone has.
pub struct FileStore {
    dir: PathBuf,
    /// Held for the life of the store; the kernel lets go of it whatever happens to the process.
    lock: File,
}

impl Drop for FileStore {
    fn drop(&mut self) {
        // Closing alone would leave the lock to a child process that is just being started and still shares the file.
        let _ = self.lock.unlock();
    }
}

impl fmt::Debug for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileStore")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

const STATE: &str = "state.json";
const NETMAP: &str = "netmap.json";
const LOCK: &str = "lock";
/// Largest file that is read back.
const MAX_FILE: u64 = 64 << 20;

impl FileStore {
    /// Opens the directory, makes it if need be, and takes its lock.
    ///
    /// # Errors
    /// [`StoreError`] when another process has it, others can read it, or it cannot be written.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let failed = |action| {
            move |source| StoreError::Io {
                action,
                path: dir.to_owned(),
                source,
            }
        };
        if let Some(parent) = dir.parent() {
            fs::create_dir_all(parent).map_err(failed("create the parent of"))?;
        }
        match private::create_dir(dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("create")(error)),
        }
        private::check(dir, &fs::metadata(dir).map_err(failed("look at"))?, "700")?;
        let lock = take_lock(dir)?;
        let store = Self {
            dir: dir.to_owned(),
            lock,
        };
        for name in [STATE, NETMAP] {
            // What an interrupted write left behind.
            let _ = fs::remove_file(store.dir.join(format!("{name}.new")));
        }
        Ok(store)
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let path = self.dir.join(name);
        let failed = |source| StoreError::Io {
            action: "read",
            path: path.clone(),
            source,
        };
        let mut options = OpenOptions::new();
        options.read(true);
        let mut file = match private::restrict(&mut options).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let metadata = file.metadata().map_err(failed)?;
        private::check(&path, &metadata, "600")?;
        if metadata.len() > MAX_FILE {
            return Err(StoreError::Damaged {
                path,
                problem: "it is over 64 MiB".to_owned(),
            });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len() + 1).unwrap_or(0)));
        file.read_to_end(&mut bytes).map_err(failed)?;
        Ok(Some(bytes))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.dir.join(name);
        let failed = |action| {
            let path = path.clone();
            move |source| StoreError::Io { action, path, source }
        };
        let new = self.dir.join(format!("{name}.new"));
        let _ = fs::remove_file(&new);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        let mut file = private::restrict(&mut options)
            .open(&new)
            .map_err(failed("create a file for"))?;
        file.write_all(bytes).map_err(failed("write"))?;
        file.sync_all().map_err(failed("sync"))?;
        fs::rename(&new, &path).map_err(failed("replace"))?;
        private::sync_dir(&self.dir).map_err(failed("sync the directory of"))
    }
}

fn take_lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(LOCK);
    let failed = |action| {
        let path = path.clone();
        move |source| StoreError::Io { action, path, source }
    };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut lock = private::restrict(&mut options).open(&path).map_err(failed("open"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = (&lock).take(20).read_to_string(&mut pid);
            let pid: String = pid.chars().filter(char::is_ascii_digit).collect();
            let pid = if pid.is_empty() {
                "of unknown number".to_owned()
            } else {
                pid
            };
            return Err(StoreError::InUse {
                path: dir.to_owned(),
                pid,
            });
        }
        Err(TryLockError::Error(error)) => return Err(failed("lock")(error)),
    }
    lock.set_len(0).map_err(failed("write"))?;
    write!(lock, "{}", std::process::id()).map_err(failed("write"))?;
    Ok(lock)
}

impl StateStore for FileStore {
    fn load(&self) -> Result<Option<NodeState>, StoreError> {
        let path = self.dir.join(STATE);
        let Some(bytes) = self.read(STATE)? else {
            if self.dir.join(NETMAP).exists() {
                let problem = "it is missing, though this node had joined".to_owned();
                return Err(StoreError::Damaged { path, problem });
            }
            return Ok(None);
        };
        decode(&bytes)
            .map(Some)
            .map_err(|problem| StoreError::Damaged { path, problem })
    }

    fn save(&self, state: &NodeState) -> Result<(), StoreError> {
        let bytes = encode(state).map_err(|error| StoreError::Io {
            action: "encode",
            path: self.dir.join(STATE),
            source: error.into(),
        })?;
        self.write(STATE, &bytes)
    }

    fn load_netmap(&self) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.read(NETMAP)?.map(|bytes| bytes.to_vec()))
    }

    fn save_netmap(&self, netmap: Option<&[u8]>) -> Result<(), StoreError> {
        if let Some(netmap) = netmap {
            return self.write(NETMAP, netmap);
        }
        let path = self.dir.join(NETMAP);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StoreError::Io {
                action: "remove",
                path,
                source,
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn temp() -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("a/b/state");
        (temp, dir)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn state_comes_back_and_is_private() {
        let (_temp, dir) = temp();
        let store = FileStore::open(&dir).unwrap();
        assert!(store.load().unwrap().is_none());
        let mut state = NodeState::generate();
        state.control_keys.insert("http://x".into(), state.machine_key.public());
        state.node_key = Some(NodePrivateKey::generate());
        state.registered_at = Some("http://x".into());
        state.home = Some(RegionId(9));
        let relay_key = NodePrivateKey::generate().public();
        state.relay_keys.insert("derp.test:443".into(), relay_key);
        store.save(&state).unwrap();
        store.save_netmap(Some(b"{}")).unwrap();
        drop(store);
        let store = FileStore::open(&dir).unwrap();
        let again = store.load().unwrap().unwrap();
        assert_eq!(again.machine_key.public(), state.machine_key.public());
        assert_eq!(again.node_key.unwrap().public(), state.node_key.unwrap().public());
        assert_eq!(
            again.trying_node_key.unwrap().public(),
            state.trying_node_key.unwrap().public()
        );
        assert_eq!(
            (again.control_keys, again.registered_at, again.home, again.relay_keys),
            (state.control_keys, state.registered_at, state.home, state.relay_keys)
        );
        assert_eq!(store.load_netmap().unwrap().unwrap(), b"{}");
        assert_eq!(
            (mode(&dir), mode(&dir.join(STATE)), mode(&dir.join(NETMAP))),
            (0o700, 0o600, 0o600)
        );
        store.save_netmap(None).unwrap();
        store.save_netmap(None).unwrap();
        assert!(store.load_netmap().unwrap().is_none());
    }

    #[test]
    fn a_second_holder_is_told_the_pid_of_the_first() {
        let (_temp, dir) = temp();
        let _first = FileStore::open(&dir).unwrap();
        let error = FileStore::open(&dir).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    }

    #[test]
    fn wide_modes_are_refused_with_the_remedy() {
        let (_temp, dir) = temp();
        let store = FileStore::open(&dir).unwrap();
        store.save(&NodeState::generate()).unwrap();
        fs::set_permissions(dir.join(STATE), fs::Permissions::from_mode(0o640)).unwrap();
        let error = store.load().unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
        drop(store);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        let error = FileStore::open(&dir).unwrap_err().to_string();
        assert!(error.contains("chmod 700"), "{error}");
    }

    #[test]
    fn damage_is_an_error_that_quotes_no_key() {
        let (_temp, dir) = temp();
        let store = FileStore::open(&dir).unwrap();
        for content in [
            "",
            "{}",
            r#"{"version":1,"machine_private_key":"privkey:secret"}"#,
            r#"{"version":1,"machine_private_key":7}"#,
        ] {
            store.write(STATE, content.as_bytes()).unwrap();
            let error = store.load().unwrap_err();
            assert!(matches!(error, StoreError::Damaged { .. }), "{content}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        fs::remove_file(dir.join(STATE)).unwrap();
        assert!(store.load().unwrap().is_none());
        store.save_netmap(Some(b"{}")).unwrap();
        assert!(matches!(store.load(), Err(StoreError::Damaged { .. })));
    }

    #[test]
    fn links_are_not_followed() {
        let (temp, dir) = temp();
        let store = FileStore::open(&dir).unwrap();
        std::os::unix::fs::symlink(temp.path().join("elsewhere"), dir.join(STATE)).unwrap();
        assert!(store.load().is_err());
        store.save(&NodeState::generate()).unwrap();
        assert!(!temp.path().join("elsewhere").exists());
    }

    #[test]
    fn memory_forgets_with_the_store() {
        let store = MemoryStore::new();
        store.save(&NodeState::generate()).unwrap();
        assert!(store.load().unwrap().is_some());
        assert!(MemoryStore::new().load().unwrap().is_none());
    }
}
