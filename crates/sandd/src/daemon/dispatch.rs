//! Which verb a message is (pure).

use std::time::Duration;

use super::exec::CommandSpec;
use crate::wire::ids::RequestId;
use crate::wire::v1::Message;

/// What is to be done about a message.
#[derive(Debug)]
pub(super) enum Verb {
    /// Run a command.
    Run(RequestId, CommandSpec),
    /// This answer, at once.
    Answer(Box<Message>),
    /// Nothing, but the log says so.
    Ignore,
}

const NO_SESSIONS: &str = "this daemon does not support interactive sessions yet";
const NO_FILES: &str = "this daemon does not support file transfer yet";
const NO_SNAPSHOTS: &str = "this daemon does not support snapshots yet";

/// Says what a message from the controller asks for.
pub(super) fn dispatch(message: Message) -> Verb {
    match message {
        Message::ExecuteCommand {
            request_id,
            command,
            timeout_secs,
            env,
            cwd,
        } => Verb::Run(
            request_id,
            CommandSpec {
                command,
                env,
                cwd,
                timeout: Duration::from_secs(timeout_secs),
            },
        ),
        Message::NewSession { session_id, .. } => answer(Message::SessionStarted {
            session_id,
            success: false,
            error: Some(NO_SESSIONS.to_owned()),
        }),
        Message::FileUploadStart { request_id, .. } => answer(Message::FileUploadComplete {
            request_id,
            success: false,
            error: Some(NO_FILES.to_owned()),
        }),
        Message::FileDownloadStart { request_id, .. } => answer(Message::FileDownloadError {
            request_id,
            error: NO_FILES.to_owned(),
        }),
        Message::CreateSnapshot { request_id, .. }
        | Message::RestoreSnapshot { request_id, .. }
        | Message::ListSnapshots { request_id, .. }
        | Message::FindSnapshotByTag { request_id, .. }
        | Message::GetSnapshot { request_id, .. }
        | Message::DeleteSnapshot { request_id, .. } => answer(Message::SnapshotError {
            request_id,
            error: NO_SNAPSHOTS.to_owned(),
        }),
        // Of sessions and uploads that were refused, or not for a daemon at all.
        Message::SessionInput { .. }
        | Message::SessionResize { .. }
        | Message::SessionClose { .. }
        | Message::FileUploadChunk { .. }
        | Message::Pong
        | Message::Error { .. }
        | Message::Register { .. }
        | Message::RegisterAck { .. }
        | Message::Heartbeat
        | Message::HeartbeatAck { .. }
        | Message::CommandOutput { .. }
        | Message::CommandError { .. }
        | Message::SessionStarted { .. }
        | Message::SessionOutput { .. }
        | Message::SessionExit { .. }
        | Message::FileUploadComplete { .. }
        | Message::FileDownloadChunk { .. }
        | Message::FileDownloadError { .. }
        | Message::SnapshotCreated { .. }
        | Message::SnapshotRestored { .. }
        | Message::SnapshotList { .. }
        | Message::SnapshotDetails { .. }
        | Message::SnapshotDeleted { .. }
        | Message::SnapshotError { .. } => Verb::Ignore,
    }
}

fn answer(message: Message) -> Verb {
    Verb::Answer(Box::new(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(text: &str) -> String {
        match dispatch(Message::decode(text).unwrap()) {
            Verb::Answer(message) => message.encode().unwrap(),
            other @ (Verb::Run(..) | Verb::Ignore) => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_there_yet_is_said_clearly() {
        let text = answered(r#"{"type":"new_session","session_id":"s","rows":1,"cols":1}"#);
        assert!(
            text.contains(r#""type":"session_started","session_id":"s","success":false"#),
            "{text}"
        );
        let text = answered(r#"{"type":"file_upload_start","request_id":"r","path":"/a","total_size":1}"#);
        assert!(
            text.contains(r#""type":"file_upload_complete","request_id":"r","success":false"#),
            "{text}"
        );
        let text = answered(r#"{"type":"file_download_start","request_id":"r","path":"/a"}"#);
        assert!(
            text.contains(r#""type":"file_download_error","request_id":"r""#),
            "{text}"
        );
        for kind in [
            "create_snapshot",
            "restore_snapshot",
            "list_snapshots",
            "find_snapshot_by_tag",
            "get_snapshot",
        ] {
            let text = answered(&format!(
                r#"{{"type":"{kind}","request_id":"r","workspace":"w","snapshot_id":"i","destination":"d","tag":"t"}}"#
            ));
            assert!(text.contains(r#""type":"snapshot_error","request_id":"r""#), "{text}");
        }
    }

    #[test]
    fn unknown_sessions_are_ignored() {
        for text in [
            r#"{"type":"session_close","session_id":"s"}"#,
            r#"{"type":"session_input","session_id":"s","data":""}"#,
            r#"{"type":"file_upload_chunk","request_id":"r","data":"","offset":0}"#,
        ] {
            assert!(matches!(dispatch(Message::decode(text).unwrap()), Verb::Ignore));
        }
    }
}
