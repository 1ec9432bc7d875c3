//! Our daemon against raw controllers of each generation.

use std::time::Duration;

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message as Frame;

use crate::harness::{RawController, RawPeer, daemon};

fn command(id: &str, command: &str) -> String {
    json!({"type": "execute_command", "request_id": id, "command": command}).to_string()
}

async fn answer(peer: &mut RawPeer, id: &str) -> Value {
    loop {
        let message = peer.receive().await;
        if message["request_id"] == id {
            return message;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn registration_as_the_original_writes_it() {
    let controller = RawController::new().await;
    let directory = tempfile::tempdir().unwrap();
    let more = [
        "--label", "pool=gpu", "-l", "zone=b=c", "-l", "pool=cpu", "-l", "nonsense",
    ];
    let _daemon = daemon(&controller.url(), "w", &more, directory.path());
    let (_peer, register) = controller.registered().await;
    assert_eq!(register["daemon_id"], "w");
    let metadata = &register["metadata"];
    assert_eq!(
        (&metadata["platform"], &metadata["arch"]),
        (&"linux".into(), &std::env::consts::ARCH.into())
    );
    assert_eq!(metadata["labels"], json!({"pool": "cpu", "zone": "b=c"}));
    assert!(metadata["hostname"].is_string() && metadata["version"].is_string());
}

/// A controller before 0.2 sends no ack; the daemon must not cut itself off, and heartbeats go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_controller_without_acks_is_served() {
    let controller = RawController::new().await;
    let directory = tempfile::tempdir().unwrap();
    let _daemon = daemon(&controller.url(), "w", &["--heartbeat-interval", "1"], directory.path());
    let (mut peer, _) = controller.registered().await;
    for _ in 0..3 {
        assert_eq!(peer.receive().await["type"], "heartbeat");
    }
    peer.send(&command("r", "echo hi")).await;
    let output = answer(&mut peer, "r").await;
    assert_eq!(
        (&output["type"], &output["stdout"]),
        (&"command_output".into(), &"hi\n".into())
    );
}

/// The fields are those of the original, so that its strict readers take them.
#[tokio::test(flavor = "multi_thread")]
async fn answers_have_the_originals_fields() {
    let controller = RawController::new().await;
    let directory = tempfile::tempdir().unwrap();
    let _daemon = daemon(&controller.url(), "w", &[], directory.path());
    let (mut peer, _) = controller.registered().await;
    peer.send(&command("r", "echo out; echo err >&2; exit 3")).await;
    let output = answer(&mut peer, "r").await;
    let fields: Vec<_> = output.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        fields,
        ["duration_ms", "exit_code", "request_id", "stderr", "stdout", "type"]
    );
    assert_eq!((&output["exit_code"], &output["stderr"]), (&3.into(), &"err\n".into()));
    peer.send(
        &json!({"type": "execute_command", "request_id": "t", "command": "sleep 9", "timeout_secs": 0}).to_string(),
    )
    .await;
    let error = answer(&mut peer, "t").await;
    assert_eq!(error["type"], "command_error");
    assert!(error["error"].as_str().unwrap().contains("timed out"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_before_the_ack_is_kept() {
    let controller = RawController::new().await;
    let directory = tempfile::tempdir().unwrap();
    let _daemon = daemon(&controller.url(), "w", &[], directory.path());
    let mut peer = controller.accept(Some("sandd.v1")).await;
    assert_eq!(peer.receive().await["type"], "register");
    peer.send(&command("early", "echo early")).await;
    peer.send(r#"{"type":"register_ack","success":true,"message":""}"#)
        .await;
    assert_eq!(answer(&mut peer, "early").await["stdout"], "early\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_daemon_registers_in_place() {
    let controller = RawController::new().await;
    let directory = tempfile::tempdir().unwrap();
    let _daemon = daemon(&controller.url(), "w", &[], directory.path());
    let (mut peer, _) = controller.registered().await;
    peer.send(r#"{"type":"heartbeat_ack","success":false,"reason":"not registered here, send register"}"#)
        .await;
    assert_eq!(peer.receive_type("register").await["daemon_id"], "w");
    peer.send(r#"{"type":"register_ack","success":true,"message":""}"#)
        .await;
    assert_eq!(peer.receive().await["type"], "heartbeat");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_of_another_protocol_is_left_and_dialled_again() {
    let controller = RawController::new().await;
    let directory = tempfile::tempdir().unwrap();
    let process = daemon(&controller.url(), "w", &[], directory.path());
    assert_eq!(controller.accept(None).await.receive_or_end().await, None);
    let (_peer, _) = controller.registered().await;
    assert!(process.log().contains("no subprotocol"), "{}", process.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_reset_close_and_garbage_all_lead_to_a_new_connection() {
    let controller = RawController::new().await;
    let directory = tempfile::tempdir().unwrap();
    let process = daemon(&controller.url(), "w", &["-r", "1"], directory.path());
    let mut peer = controller.accept(Some("sandd.v1")).await;
    peer.receive().await;
    peer.send(r#"{"type":"register_ack","success":false,"message":"not\nyou"}"#)
        .await;
    let (mut peer, _) = controller.registered().await;
    assert!(process.log().contains("not\\nyou"), "{}", process.log());
    peer.0.close(None).await.unwrap();
    let (peer, _) = controller.registered().await;
    drop(peer);
    let (mut peer, _) = controller.registered().await;
    for bad in [
        "",
        "nonsense",
        r#"{"type":"teleport"}"#,
        r#"{"type":"session_input","session_id":"x","data":"a*"}"#,
    ] {
        peer.send(bad).await;
    }
    peer.0.send(Frame::binary(vec![1, 2, 3])).await.unwrap();
    peer.send(r#"{"type":"session_close","session_id":"unknown"}"#).await;
    peer.send(&command("still", "echo here")).await;
    assert_eq!(answer(&mut peer, "still").await["stdout"], "here\n");
    let _ = peer.0.send(Frame::text("x".repeat(17 * 1024 * 1024))).await;
    controller.registered().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_built_yet_is_answered_clearly() {
    let controller = RawController::new().await;
    let directory = tempfile::tempdir().unwrap();
    let _daemon = daemon(&controller.url(), "w", &[], directory.path());
    let (mut peer, _) = controller.registered().await;
    peer.send(r#"{"type":"new_session","session_id":"s","rows":24,"cols":80}"#)
        .await;
    let started = peer.receive_type("session_started").await;
    assert_eq!(
        (&started["session_id"], &started["success"]),
        (&"s".into(), &false.into())
    );
    assert!(started["error"].as_str().unwrap().contains("not support"));
    peer.send(r#"{"type":"file_upload_start","request_id":"u","path":"/x","total_size":3}"#)
        .await;
    peer.send(r#"{"type":"file_upload_chunk","request_id":"u","data":"YWJj","offset":0}"#)
        .await;
    let complete = peer.receive_type("file_upload_complete").await;
    assert_eq!(
        (&complete["request_id"], &complete["success"]),
        (&"u".into(), &false.into())
    );
    peer.send(r#"{"type":"file_download_start","request_id":"d","path":"/x"}"#)
        .await;
    assert_eq!(peer.receive_type("file_download_error").await["request_id"], "d");
    peer.send(r#"{"type":"list_snapshots","request_id":"l"}"#).await;
    assert_eq!(peer.receive_type("snapshot_error").await["request_id"], "l");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_and_sigint_are_a_close_frame_and_exit_zero() {
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let controller = RawController::new().await;
        let directory = tempfile::tempdir().unwrap();
        let mut process = daemon(&controller.url(), "w", &[], directory.path());
        let (mut peer, _) = controller.registered().await;
        process.signal(signal);
        let closed = async {
            use futures_util::StreamExt;
            loop {
                match peer.0.next().await {
                    Some(Ok(Frame::Close(Some(frame)))) => return u16::from(frame.code),
                    Some(Ok(_)) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        let code = tokio::time::timeout(Duration::from_secs(5), closed).await.unwrap();
        assert_eq!(code, 1001);
        assert_eq!(process.ended().await, Some(0));
    }
}
