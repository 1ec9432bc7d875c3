//! `sandd.v1`: what travels between controller and daemon.
//!
//! One message is one WebSocket text frame with one JSON object; its `type` names one of 34 messages:
//!
//! | area | controller to daemon | daemon to controller |
//! |---|---|---|
//! | connection | `register_ack`, `heartbeat_ack`, `pong`, `error` | `register`, `heartbeat`, `error` |
//! | commands | `execute_command` | `command_output`, `command_error` |
//! | sessions | `new_session`, `session_input`, `session_resize`, `session_close` | `session_started`, `session_output`, `session_exit` |
//! | files | `file_upload_start`, `file_upload_chunk`, `file_download_start` | `file_upload_complete`, `file_download_chunk`, `file_download_error` |
//! | snapshots | `create_snapshot`, `restore_snapshot`, `list_snapshots`, `find_snapshot_by_tag`, `get_snapshot`, `delete_snapshot` | `snapshot_created`, `snapshot_restored`, `snapshot_list`, `snapshot_details`, `snapshot_deleted`, `snapshot_error` |
//!
//! [`v1`] is the codec, [`ids`] the names of things, [`link`] the life of one connection as a pure machine for both
//! sides. Nothing here touches a socket or a clock.

pub mod ids;
pub mod link;
pub mod v1;

/// The WebSocket subprotocol that both sides must agree on.
pub const SUBPROTOCOL: &str = "sandd.v1";

/// The largest frame a v1 peer takes; what counts is the JSON text.
pub const MAX_FRAME: usize = 16 * 1024 * 1024;

/// The largest message a v1 peer may send, when it splits it into frames.
pub const MAX_MESSAGE: usize = 64 * 1024 * 1024;
