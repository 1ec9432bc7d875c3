//! The 34 messages of `sandd.v1`, exactly the original's fields, defaults and tolerance.
//!
//! Fields that we add (marked so) are left out when they say nothing, so that a message without them is byte for byte
//! what the original writes; every generation of the original ignores fields that it does not know.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::MAX_FRAME;
use super::ids::{InstanceSecret, RequestId, SessionId};

/// Nesting that a message may have before we look at it (S-29).
const MAX_DEPTH: usize = 32;

/// Entries that a map in a message may have (S-29).
pub const MAX_MAP_ENTRIES: usize = 4_096;

/// Why a text is no message, or a message no text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// A `type` that `sandd.v1` does not have: to be dropped, the connection lives on.
    #[error("unknown message type `{0}`")]
    UnknownType(String),
    /// Not a message: to be dropped, the connection lives on.
    #[error("message cannot be parsed: {0}")]
    Malformed(#[source] serde_json::Error),
    /// Nested deeper than anything that we know.
    #[error("message is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// A map with more entries than allowed.
    #[error("message has a map with more than {MAX_MAP_ENTRIES} entries")]
    TooManyEntries,
    /// Larger than a v1 peer takes.
    #[error("message of {0} bytes is larger than the 16 MiB that a v1 peer takes")]
    TooLarge(usize),
}

/// Bytes that travel as base64 text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bytes64(pub Vec<u8>);

impl Serialize for Bytes64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        STANDARD
            .decode(text.as_bytes())
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

/// What a daemon says of itself when it registers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Host name, `unknown` when the system has none.
    pub hostname: String,
    /// Operating system as Rust names it.
    pub platform: String,
    /// Processor architecture as Rust names it.
    pub arch: String,
    /// Version of the daemon.
    #[serde(default)]
    pub version: String,
    /// Labels to select daemons by.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// One snapshot in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the table of `sandd.v1`")]
pub struct SnapshotInfo {
    pub id: String,
    pub created_at: i64,
    pub message: String,
    pub tags: Vec<String>,
    pub file_count: u64,
    pub total_size: u64,
}

fn default_timeout() -> u64 {
    300
}

fn default_term() -> String {
    "xterm-256color".to_owned()
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// One message of `sandd.v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(missing_docs, reason = "variants and fields are the catalogue of `sandd.v1`")]
pub enum Message {
    // Connection.
    Register {
        daemon_id: String,
        metadata: Metadata,
        /// Ours: a secret of this daemon process, so that its next connection may replace a half-open one (S-27).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance: Option<InstanceSecret>,
    },
    RegisterAck {
        success: bool,
        message: String,
    },
    Heartbeat,
    HeartbeatAck {
        success: bool,
        reason: String,
    },
    Pong,
    Error {
        message: String,
        #[serde(default)]
        recoverable: bool,
    },

    // Commands.
    ExecuteCommand {
        request_id: RequestId,
        command: String,
        #[serde(default = "default_timeout")]
        timeout_secs: u64,
        #[serde(default)]
        env: BTreeMap<String, String>,
        #[serde(default)]
        cwd: Option<String>,
    },
    CommandOutput {
        request_id: RequestId,
        stdout: String,
        stderr: String,
        exit_code: i32,
        duration_ms: u64,
        /// Ours: the middle of an output was left out.
        #[serde(default, skip_serializing_if = "is_false")]
        truncated: bool,
        /// Ours, with `truncated`: how much the command wrote in all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stdout_bytes: Option<u64>,
        /// Ours, with `truncated`: how much the command wrote in all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stderr_bytes: Option<u64>,
        /// Ours: the signal behind an `exit_code` of -1.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
    },
    CommandError {
        request_id: RequestId,
        error: String,
        /// Ours: what had been written before the command was ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stdout: Option<String>,
        /// Ours: what had been written before the command was ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stderr: Option<String>,
    },

    // Sessions.
    NewSession {
        session_id: SessionId,
        rows: u16,
        cols: u16,
        #[serde(default = "default_term")]
        term: String,
    },
    SessionStarted {
        session_id: SessionId,
        success: bool,
        #[serde(default)]
        error: Option<String>,
    },
    SessionInput {
        session_id: SessionId,
        data: Bytes64,
    },
    SessionOutput {
        session_id: SessionId,
        data: Bytes64,
    },
    SessionResize {
        session_id: SessionId,
        rows: u16,
        cols: u16,
    },
    SessionClose {
        session_id: SessionId,
    },
    SessionExit {
        session_id: SessionId,
        exit_code: i32,
    },

    // Files.
    FileUploadStart {
        request_id: RequestId,
        path: String,
        total_size: u64,
        #[serde(default)]
        mode: Option<u32>,
    },
    FileUploadChunk {
        request_id: RequestId,
        data: Bytes64,
        offset: u64,
    },
    FileUploadComplete {
        request_id: RequestId,
        success: bool,
        #[serde(default)]
        error: Option<String>,
    },
    FileDownloadStart {
        request_id: RequestId,
        path: String,
    },
    FileDownloadChunk {
        request_id: RequestId,
        data: Bytes64,
        offset: u64,
        is_last: bool,
    },
    FileDownloadError {
        request_id: RequestId,
        error: String,
    },

    // Snapshots.
    CreateSnapshot {
        request_id: RequestId,
        workspace: String,
        #[serde(default)]
        message: Option<String>,
        #[serde(default)]
        tags: Option<Vec<String>>,
    },
    SnapshotCreated {
        request_id: RequestId,
        snapshot_id: String,
        file_count: u64,
        total_size: u64,
    },
    RestoreSnapshot {
        request_id: RequestId,
        snapshot_id: String,
        destination: String,
    },
    SnapshotRestored {
        request_id: RequestId,
        file_count: u64,
    },
    ListSnapshots {
        request_id: RequestId,
        #[serde(default)]
        tags: Option<Vec<String>>,
    },
    SnapshotList {
        request_id: RequestId,
        snapshots: Vec<SnapshotInfo>,
    },
    FindSnapshotByTag {
        request_id: RequestId,
        tag: String,
    },
    GetSnapshot {
        request_id: RequestId,
        snapshot_id: String,
    },
    SnapshotDetails {
        request_id: RequestId,
        #[serde(default)]
        snapshot: Option<SnapshotInfo>,
    },
    DeleteSnapshot {
        request_id: RequestId,
        snapshot_id: String,
    },
    SnapshotDeleted {
        request_id: RequestId,
    },
    SnapshotError {
        request_id: RequestId,
        error: String,
    },
}

impl Message {
    /// Reads one text frame.
    ///
    /// # Errors
    /// [`WireError`]; the connection it came on may go on.
    pub fn decode(text: &str) -> Result<Self, WireError> {
        if !is_shallow(text.as_bytes()) {
            return Err(WireError::TooDeep);
        }
        let message: Self = serde_json::from_str(text).map_err(|source| explain(text, source))?;
        if message.map_entries() > MAX_MAP_ENTRIES {
            return Err(WireError::TooManyEntries);
        }
        Ok(message)
    }

    fn map_entries(&self) -> usize {
        if let Self::ExecuteCommand { env, .. } = self {
            env.len()
        } else if let Self::Register { metadata, .. } = self {
            metadata.labels.len()
        } else {
            0
        }
    }

    /// Writes the text of one frame.
    ///
    /// # Errors
    /// [`WireError::TooLarge`] for a text that a v1 peer would not take.
    pub fn encode(&self) -> Result<String, WireError> {
        let text = serde_json::to_string(self).map_err(WireError::Malformed)?;
        if text.len() > MAX_FRAME {
            return Err(WireError::TooLarge(text.len()));
        }
        Ok(text)
    }

    /// The value of `type`, for logs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Register { .. } => "register",
            Self::RegisterAck { .. } => "register_ack",
            Self::Heartbeat => "heartbeat",
            Self::HeartbeatAck { .. } => "heartbeat_ack",
            Self::Pong => "pong",
            Self::Error { .. } => "error",
            Self::ExecuteCommand { .. } => "execute_command",
            Self::CommandOutput { .. } => "command_output",
            Self::CommandError { .. } => "command_error",
            Self::NewSession { .. } => "new_session",
            Self::SessionStarted { .. } => "session_started",
            Self::SessionInput { .. } => "session_input",
            Self::SessionOutput { .. } => "session_output",
            Self::SessionResize { .. } => "session_resize",
            Self::SessionClose { .. } => "session_close",
            Self::SessionExit { .. } => "session_exit",
            Self::FileUploadStart { .. } => "file_upload_start",
            Self::FileUploadChunk { .. } => "file_upload_chunk",
            Self::FileUploadComplete { .. } => "file_upload_complete",
            Self::FileDownloadStart { .. } => "file_download_start",
            Self::FileDownloadChunk { .. } => "file_download_chunk",
            Self::FileDownloadError { .. } => "file_download_error",
            Self::CreateSnapshot { .. } => "create_snapshot",
            Self::SnapshotCreated { .. } => "snapshot_created",
            Self::RestoreSnapshot { .. } => "restore_snapshot",
            Self::SnapshotRestored { .. } => "snapshot_restored",
            Self::ListSnapshots { .. } => "list_snapshots",
            Self::SnapshotList { .. } => "snapshot_list",
            Self::FindSnapshotByTag { .. } => "find_snapshot_by_tag",
            Self::GetSnapshot { .. } => "get_snapshot",
            Self::SnapshotDetails { .. } => "snapshot_details",
            Self::DeleteSnapshot { .. } => "delete_snapshot",
            Self::SnapshotDeleted { .. } => "snapshot_deleted",
            Self::SnapshotError { .. } => "snapshot_error",
        }
    }
}

/// Says whether brackets outside strings nest at most [`MAX_DEPTH`] deep.
fn is_shallow(text: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for &byte in text {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'{' | b'[') => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return false;
                }
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    true
}

/// Tells an unknown type from a known one with wrong fields.
fn explain(text: &str, source: serde_json::Error) -> WireError {
    #[derive(Deserialize)]
    struct TypeOnly {
        #[serde(rename = "type")]
        kind: String,
    }
    // Only the names in the catalogue make the enum's own error differ from "unknown variant".
    match serde_json::from_str::<TypeOnly>(text) {
        Ok(TypeOnly { kind }) if source.to_string().starts_with("unknown variant") => WireError::UnknownType(kind),
        _ => WireError::Malformed(source),
    }
}

#[cfg(test)]
mod tests;
