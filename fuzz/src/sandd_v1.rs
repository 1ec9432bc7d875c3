//! Surfaces of `sandd`: messages between controller and daemon, and the names in them.

use sandd::wire::ids::DaemonId;
use sandd::wire::v1::Message;

/// One text frame.
pub fn message(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(message) = Message::decode(text) else { return };
    let _ = message.kind();
    let Ok(written) = message.encode() else { return };
    assert!(
        matches!(Message::decode(&written), Ok(again) if again == message),
        "{written}"
    );
}

/// A daemon's name as a person gives it and as a peer does.
pub fn daemon_id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(id) = DaemonId::from_flag(text) {
        assert!(DaemonId::from_peer(id.as_str()).is_ok());
    }
    if let Ok(id) = DaemonId::from_peer(text) {
        assert_eq!(
            DaemonId::from_peer(id.as_str()).as_ref().map(DaemonId::as_str),
            Ok(id.as_str())
        );
    }
}
