//! Golden texts, tolerance and properties of the codec.

use proptest::prelude::*;

use super::*;

/// Every message of the catalogue as the original writes it.
const GOLDEN: [&str; 34] = [
    r#"{"type":"register","daemon_id":"gpu-7","metadata":{"hostname":"ip-10-0-1-20","platform":"linux","arch":"x86_64","version":"1.0.0","labels":{"pool":"gpu","zone":"b"}}}"#,
    r#"{"type":"register_ack","success":true,"message":"registered"}"#,
    r#"{"type":"heartbeat"}"#,
    r#"{"type":"heartbeat_ack","success":false,"reason":"not registered here, send register"}"#,
    r#"{"type":"pong"}"#,
    r#"{"type":"error","message":"no","recoverable":true}"#,
    r#"{"type":"execute_command","request_id":"0b1c","command":"make -j2 test","timeout_secs":600,"env":{"CI":"1"},"cwd":"/workspace/app"}"#,
    r#"{"type":"command_output","request_id":"0b1c","stdout":"ok\n","stderr":"","exit_code":0,"duration_ms":5121}"#,
    r#"{"type":"command_error","request_id":"0b1c","error":"command timed out"}"#,
    r#"{"type":"new_session","session_id":"7f0a","rows":40,"cols":120,"term":"xterm-256color"}"#,
    r#"{"type":"session_started","session_id":"7f0a","success":true,"error":null}"#,
    r#"{"type":"session_input","session_id":"7f0a","data":"bHMK"}"#,
    r#"{"type":"session_output","session_id":"7f0a","data":"YSAgYg0K"}"#,
    r#"{"type":"session_resize","session_id":"7f0a","rows":50,"cols":132}"#,
    r#"{"type":"session_close","session_id":"7f0a"}"#,
    r#"{"type":"session_exit","session_id":"7f0a","exit_code":0}"#,
    r#"{"type":"file_upload_start","request_id":"u1","path":"/workspace/a.bin","total_size":70000,"mode":420}"#,
    r#"{"type":"file_upload_chunk","request_id":"u1","data":"AAECAw==","offset":65536}"#,
    r#"{"type":"file_upload_complete","request_id":"u1","success":true,"error":null}"#,
    r#"{"type":"file_download_start","request_id":"d1","path":"/workspace/out.log"}"#,
    r#"{"type":"file_download_chunk","request_id":"d1","data":"","offset":0,"is_last":true}"#,
    r#"{"type":"file_download_error","request_id":"d1","error":"no such file"}"#,
    r#"{"type":"create_snapshot","request_id":"s1","workspace":"/workspace","message":"before the upgrade","tags":["v1.4","stable"]}"#,
    r#"{"type":"snapshot_created","request_id":"s1","snapshot_id":"c2d8","file_count":812,"total_size":5120331}"#,
    r#"{"type":"restore_snapshot","request_id":"s2","snapshot_id":"c2d8","destination":"/w"}"#,
    r#"{"type":"snapshot_restored","request_id":"s2","file_count":812}"#,
    r#"{"type":"list_snapshots","request_id":"s3","tags":null}"#,
    r#"{"type":"snapshot_list","request_id":"s3","snapshots":[]}"#,
    r#"{"type":"find_snapshot_by_tag","request_id":"s4","tag":"stable"}"#,
    r#"{"type":"get_snapshot","request_id":"s5","snapshot_id":"c2d8"}"#,
    r#"{"type":"snapshot_details","request_id":"s2","snapshot":{"id":"c2d8","created_at":1785000000,"message":"before the upgrade","tags":["stable","v1.4"],"file_count":812,"total_size":5120331}}"#,
    r#"{"type":"delete_snapshot","request_id":"s6","snapshot_id":"c2d8"}"#,
    r#"{"type":"snapshot_deleted","request_id":"s6"}"#,
    r#"{"type":"snapshot_error","request_id":"s3","error":"tag 'stable' already exists"}"#,
];

#[test]
fn golden_texts_round_trip_byte_for_byte() {
    for text in GOLDEN {
        let message = Message::decode(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(message.encode().unwrap(), text);
        let expected = format!("{{\"type\":\"{}\"", message.kind());
        assert!(text.starts_with(&expected), "{text}");
    }
    let kinds: std::collections::BTreeSet<_> = GOLDEN.iter().map(|t| Message::decode(t).unwrap().kind()).collect();
    assert_eq!(kinds.len(), 34);
}

#[test]
fn missing_optional_fields_take_their_defaults() {
    let command = Message::decode(r#"{"type":"execute_command","request_id":"r","command":"true"}"#).unwrap();
    let Message::ExecuteCommand {
        timeout_secs, env, cwd, ..
    } = command
    else {
        panic!("{command:?}")
    };
    assert_eq!((timeout_secs, env.len(), cwd), (300, 0, None));
    let session = Message::decode(r#"{"rows":1,"cols":2,"session_id":"s","type":"new_session"}"#).unwrap();
    let Message::NewSession { term, .. } = session else {
        panic!("{session:?}")
    };
    assert_eq!(term, "xterm-256color");
    let text = r#"{"type":"register","daemon_id":"d","metadata":{"hostname":"h","platform":"linux","arch":"a"}}"#;
    let Message::Register { metadata, .. } = Message::decode(text).unwrap() else {
        panic!()
    };
    assert_eq!((metadata.version.as_str(), metadata.labels.len()), ("", 0));
    for text in [
        r#"{"type":"session_started","session_id":"s","success":false}"#,
        r#"{"type":"file_upload_start","request_id":"r","path":"/a","total_size":1}"#,
        r#"{"type":"create_snapshot","request_id":"r","workspace":"/a"}"#,
        r#"{"type":"snapshot_details","request_id":"r"}"#,
        r#"{"type":"error","message":"m"}"#,
    ] {
        assert!(Message::decode(text).is_ok(), "{text}");
    }
}

#[test]
fn unknown_fields_are_ignored() {
    let text = r#"{"later":{"a":[1,2]},"type":"session_close","session_id":"s","more":null}"#;
    assert_eq!(
        Message::decode(text).unwrap(),
        Message::SessionClose { session_id: "s".into() }
    );
    assert_eq!(
        Message::decode(r#"{"type":"heartbeat","load":0.5}"#).unwrap(),
        Message::Heartbeat
    );
}

#[test]
fn bad_messages_are_errors_of_their_kind() {
    assert!(
        matches!(Message::decode(r#"{"type":"teleport","x":1}"#), Err(WireError::UnknownType(t)) if t == "teleport")
    );
    for text in [
        "",
        "[]",
        "null",
        "{}",
        r#"{"type":7}"#,
        r#"{"type":"register_ack","success":true}"#,
        r#"{"type":"register_ack","success":"yes","message":""}"#,
        r#"{"type":"session_resize","session_id":"s","rows":70000,"cols":1}"#,
        r#"{"type":"session_resize","session_id":"s","rows":1.5,"cols":1}"#,
        r#"{"type":"session_resize","session_id":"s","rows":-1,"cols":1}"#,
        r#"{"type":"session_exit","session_id":"s","exit_code":3000000000}"#,
        r#"{"type":"session_input","session_id":"s","data":"bHM"}"#,
        r#"{"type":"session_input","session_id":"s","data":"b*=="}"#,
        r#"{"type":"session_close","session_id":"s","session_id":"t"}"#,
        r#"{"type":"execute_command","request_id":"r","command":"x","env":{"A":1}}"#,
    ] {
        assert!(matches!(Message::decode(text), Err(WireError::Malformed(_))), "{text}");
    }
    let deep = format!(r#"{{"type":"heartbeat","x":{}{}}}"#, "[".repeat(40), "]".repeat(40));
    assert!(matches!(Message::decode(&deep), Err(WireError::TooDeep)));
    let brackets_in_text = format!(
        r#"{{"type":"error","message":"{}\"{}"}}"#,
        "[".repeat(100),
        "{".repeat(100)
    );
    assert!(Message::decode(&brackets_in_text).is_ok());
}

#[test]
fn nothing_above_the_frame_bound_is_written() {
    let message = Message::CommandError {
        request_id: "r".into(),
        error: "\0".repeat(3 * 1024 * 1024),
        stdout: None,
        stderr: None,
    };
    assert!(matches!(message.encode(), Err(WireError::TooLarge(_))));
}

fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<char>(), 0..40).prop_map(String::from_iter)
}

fn bytes() -> impl Strategy<Value = Bytes64> {
    proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes64)
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map(text(), text(), 0..5)
}

fn info() -> impl Strategy<Value = SnapshotInfo> {
    (
        text(),
        any::<i64>(),
        text(),
        proptest::collection::vec(text(), 0..4),
        any::<u64>(),
        any::<u64>(),
    )
        .prop_map(|(id, created_at, message, tags, file_count, total_size)| SnapshotInfo {
            id,
            created_at,
            message,
            tags,
            file_count,
            total_size,
        })
}

fn request() -> impl Strategy<Value = RequestId> {
    text().prop_map(RequestId::from)
}

fn session() -> impl Strategy<Value = SessionId> {
    text().prop_map(SessionId::from)
}

fn register() -> impl Strategy<Value = Message> {
    (
        text(),
        text(),
        text(),
        text(),
        text(),
        labels(),
        proptest::option::of(text()),
    )
        .prop_map(
            |(daemon_id, hostname, platform, arch, version, labels, instance)| Message::Register {
                daemon_id,
                metadata: Metadata {
                    hostname,
                    platform,
                    arch,
                    version,
                    labels,
                },
                instance: instance.map(InstanceSecret::from),
            },
        )
}

fn command() -> impl Strategy<Value = Message> {
    (request(), text(), any::<u64>(), labels(), proptest::option::of(text())).prop_map(
        |(request_id, command, timeout_secs, env, cwd)| Message::ExecuteCommand {
            request_id,
            command,
            timeout_secs,
            env,
            cwd,
        },
    )
}

fn command_output() -> impl Strategy<Value = Message> {
    let numbers = (
        any::<i32>(),
        any::<u64>(),
        proptest::option::of(any::<u64>()),
        proptest::option::of(any::<i32>()),
    );
    (request(), text(), text(), any::<bool>(), numbers).prop_map(
        |(request_id, stdout, stderr, truncated, (exit_code, duration_ms, stdout_bytes, signal))| {
            Message::CommandOutput {
                request_id,
                stdout,
                stderr,
                exit_code,
                duration_ms,
                truncated,
                stdout_bytes,
                stderr_bytes: None,
                signal,
            }
        },
    )
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        register(),
        command(),
        command_output(),
        Just(Message::Heartbeat),
        (any::<bool>(), text()).prop_map(|(success, reason)| Message::HeartbeatAck { success, reason }),
        (session(), any::<u16>(), any::<u16>(), text()).prop_map(|(session_id, rows, cols, term)| {
            Message::NewSession {
                session_id,
                rows,
                cols,
                term,
            }
        }),
        (session(), bytes()).prop_map(|(session_id, data)| Message::SessionOutput { session_id, data }),
        (request(), bytes(), any::<u64>(), any::<bool>()).prop_map(|(request_id, data, offset, is_last)| {
            Message::FileDownloadChunk {
                request_id,
                data,
                offset,
                is_last,
            }
        }),
        (request(), text(), any::<u64>(), proptest::option::of(any::<u32>())).prop_map(
            |(request_id, path, total_size, mode)| Message::FileUploadStart {
                request_id,
                path,
                total_size,
                mode
            }
        ),
        (request(), proptest::collection::vec(info(), 0..4))
            .prop_map(|(request_id, snapshots)| Message::SnapshotList { request_id, snapshots }),
        (request(), proptest::option::of(info()))
            .prop_map(|(request_id, snapshot)| Message::SnapshotDetails { request_id, snapshot }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(message in message()) {
        let text = message.encode().unwrap();
        prop_assert_eq!(Message::decode(&text).unwrap(), message);
    }

    #[test]
    fn no_text_panics(text in ".{0,300}") {
        let _ = Message::decode(&text);
    }

    #[test]
    fn no_damaged_message_panics(message in message(), at in any::<prop::sample::Index>(), with in any::<char>()) {
        let mut chars: Vec<char> = message.encode().unwrap().chars().collect();
        let at = at.index(chars.len());
        chars[at] = with;
        let _ = Message::decode(&String::from_iter(chars));
    }
}
