//! The state file: schema, opening and one transaction at a time.
//!
//! Opened with 0600 from the first byte and for one process alone (S-04, S-05). Records are JSON in a table each, so that
//! a new field needs no new schema.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use sandd_control_client::keys::{MachinePrivateKey, NodePrivateKey};
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::{Change, Identity, Loaded};
use crate::error::StoreError;
use crate::io::tls::SelfMade;
use crate::membership::{Saved, Unsaved};

const SCHEMA: i64 = 1;
const TABLES: &str = "
    CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE users (id INTEGER PRIMARY KEY, record TEXT NOT NULL);
    CREATE TABLE auth_keys (id INTEGER PRIMARY KEY, record TEXT NOT NULL);
    CREATE TABLE nodes (id INTEGER PRIMARY KEY, record TEXT NOT NULL);
    PRAGMA user_version = 1;
";

#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
}

type BoxedError = Box<dyn std::error::Error + Send + Sync>;

impl Database {
    pub(super) fn open(path: &Path) -> Result<(Self, Loaded), StoreError> {
        let file = open_private(path)?;
        let mut connection = Connection::open(path).map_err(|error| corrupt(path, error))?;
        lock(&connection, path, &file)?;
        drop(file);
        let loaded = load(&mut connection, path)?;
        Ok((Self { connection }, loaded))
    }

    /// Writes all or nothing.
    pub(super) fn write<'a>(&mut self, changes: impl Iterator<Item = &'a Change>) -> Result<(), BoxedError> {
        let transaction = self.connection.transaction()?;
        for change in changes {
            write_one(&transaction, change)?;
        }
        transaction.commit()?;
        Ok(())
    }
}

fn corrupt(path: &Path, source: impl Into<BoxedError>) -> StoreError {
    StoreError::Corrupt {
        path: path.to_owned(),
        source: source.into(),
    }
}

/// Makes the file with the right mode, or checks the one that is there.
fn open_private(path: &Path) -> Result<File, StoreError> {
    let failed = |source: io::Error| StoreError::Open {
        path: path.to_owned(),
        source,
    };
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    let file = match options.clone().create_new(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let metadata = std::fs::symlink_metadata(path).map_err(failed)?;
            if !metadata.is_file() {
                return Err(StoreError::NotAFile { path: path.to_owned() });
            }
            options.open(path).map_err(failed)?
        }
        Err(error) => return Err(failed(error)),
    };
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(StoreError::Mode {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(file)
}

fn lock(connection: &Connection, path: &Path, file: &File) -> Result<(), StoreError> {
    let busy = || StoreError::InUse {
        path: path.to_owned(),
        pid: file.metadata().ok().and_then(|metadata| holder(metadata.ino())),
    };
    let judge = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => busy(),
        _ => corrupt(path, error),
    };
    connection.busy_timeout(Duration::ZERO).map_err(judge)?;
    // Held from the first transaction until the file is closed.
    connection
        .pragma_update(None, "locking_mode", "EXCLUSIVE")
        .and_then(|()| connection.pragma_update(None, "journal_mode", "WAL"))
        .and_then(|()| connection.pragma_update(None, "synchronous", "FULL"))
        .and_then(|()| connection.pragma_update(None, "secure_delete", "ON"))
        .and_then(|()| connection.execute_batch("BEGIN EXCLUSIVE; COMMIT;"))
        .map_err(judge)
}

/// Who holds a lock on this file, from the kernel's table: `1: POSIX ADVISORY WRITE pid major:minor:inode start end`.
fn holder(inode: u64) -> Option<u32> {
    let suffix = format!(":{inode}");
    let table = std::fs::read_to_string("/proc/locks").ok()?;
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let pid: u32 = fields.get(4)?.parse().ok()?;
        fields.get(5)?.ends_with(&suffix).then_some(pid)
    })
}

fn load(connection: &mut Connection, path: &Path) -> Result<Loaded, StoreError> {
    let bad = |error: BoxedError| corrupt(path, error);
    let version: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|error| bad(error.into()))?;
    match version {
        0 => create(connection).map_err(bad)?,
        SCHEMA => {}
        found => {
            return Err(StoreError::TooNew {
                path: PathBuf::from(path),
                found,
            });
        }
    }
    read_all(connection).map_err(bad)
}

/// A new state: its tables and its keys in one transaction, so that a state without keys cannot come to be.
fn create(connection: &mut Connection) -> Result<(), BoxedError> {
    let identity = Identity::generate();
    let transaction = connection.transaction()?;
    transaction.execute_batch(TABLES)?;
    put_meta(&transaction, "noise_key", identity.noise.to_secret_text().as_bytes())?;
    put_meta(&transaction, "relay_key", identity.relay.to_secret_text().as_bytes())?;
    transaction.commit()?;
    Ok(())
}

fn put_meta(transaction: &Transaction<'_>, name: &str, value: &[u8]) -> rusqlite::Result<()> {
    let statement = "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2";
    transaction.execute(statement, params![name, value]).map(drop)
}

fn meta(connection: &Connection, name: &str) -> rusqlite::Result<Option<Zeroizing<Vec<u8>>>> {
    connection
        .query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0))
        .optional()
        .map(|value| value.map(Zeroizing::new))
}

fn secret_text(connection: &Connection, name: &str) -> Result<Zeroizing<String>, BoxedError> {
    let value = meta(connection, name)?.ok_or_else(|| format!("{name} is missing"))?;
    Ok(Zeroizing::new(
        String::from_utf8(value.to_vec()).map_err(|_| format!("{name} is no text"))?,
    ))
}

fn read_all(connection: &Connection) -> Result<Loaded, BoxedError> {
    let identity = Identity {
        noise: MachinePrivateKey::from_secret_text(&secret_text(connection, "noise_key")?)?,
        relay: NodePrivateKey::from_secret_text(&secret_text(connection, "relay_key")?)?,
    };
    let certificate = match (meta(connection, "certificate")?, meta(connection, "certificate_key")?) {
        (Some(certificate), Some(key)) => Some(SelfMade {
            certificate: certificate.to_vec(),
            key,
        }),
        _ => None,
    };
    let policy = meta(connection, "policy")?
        .map(|text| String::from_utf8(text.to_vec()))
        .transpose()?;
    let saved = Saved {
        users: read_table(connection, "SELECT record FROM users ORDER BY id")?,
        nodes: read_table(connection, "SELECT record FROM nodes ORDER BY id")?,
        keys: read_table(connection, "SELECT record FROM auth_keys ORDER BY id")?,
    };
    Ok(Loaded {
        identity,
        certificate,
        policy,
        saved,
    })
}

fn read_table<T: DeserializeOwned>(connection: &Connection, query: &str) -> Result<Vec<T>, BoxedError> {
    let mut statement = connection.prepare(query)?;
    let mut rows = statement.query([])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        let text: String = row.get(0)?;
        records.push(serde_json::from_str(&text)?);
    }
    Ok(records)
}

fn write_one(transaction: &Transaction<'_>, change: &Change) -> Result<(), BoxedError> {
    match change {
        Change::Record(Unsaved::User(user)) => {
            let text = serde_json::to_string(user)?;
            transaction.execute("INSERT OR REPLACE INTO users VALUES (?1, ?2)", params![user.id.0, text])?;
        }
        Change::Record(Unsaved::Key(key)) => {
            let text = serde_json::to_string(key)?;
            transaction.execute(
                "INSERT OR REPLACE INTO auth_keys VALUES (?1, ?2)",
                params![key.id.0, text],
            )?;
        }
        Change::Record(Unsaved::Node(node)) => {
            let text = serde_json::to_string(node)?;
            transaction.execute("INSERT OR REPLACE INTO nodes VALUES (?1, ?2)", params![node.id.0, text])?;
        }
        Change::Record(Unsaved::NodeGone(id)) => {
            transaction.execute("DELETE FROM nodes WHERE id = ?1", [id.0])?;
        }
        Change::Policy(Some(text)) => put_meta(transaction, "policy", text.as_bytes())?,
        Change::Policy(None) => {
            transaction.execute("DELETE FROM meta WHERE name = 'policy'", [])?;
        }
        Change::Certificate(made) => {
            put_meta(transaction, "certificate", &made.certificate)?;
            put_meta(transaction, "certificate_key", &made.key)?;
        }
    }
    Ok(())
}
