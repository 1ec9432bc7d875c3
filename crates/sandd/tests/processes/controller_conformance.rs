//! Our controller against raw daemons of each generation.

use std::time::{Duration, Instant};

use futures_util::SinkExt;
use sandd::local::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message as Frame;

use crate::harness::{Ground, register};

async fn http(ground: &Ground, request: &str) -> String {
    let answer = try_http(ground, request).await;
    answer.unwrap()
}

async fn try_http(ground: &Ground, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(ground.address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn http_on_the_same_port() {
    let ground = Ground::new();
    let _daemon = ground.daemon("w", &["--label", "pool=gpu"]).await;
    let answer = http(&ground, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nOK"),
        "{answer}"
    );
    let answer = http(&ground, "GET /stats HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let body: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(
        (&body["total_daemons"], &body["by_platform"]["linux"]),
        (&1.into(), &1.into())
    );
    let daemon = &body["daemons"]["w"];
    for field in [
        "hostname",
        "platform",
        "arch",
        "version",
        "is_busy",
        "connected_secs",
        "seconds_since_heartbeat",
    ] {
        assert!(!daemon[field].is_null(), "{field}: {daemon}");
    }
    assert_eq!(daemon["labels"]["pool"], "gpu");
    for (request, status) in [
        ("GET /ws/", "404"),
        ("POST /health", "405"),
        ("GET /ws", "400"),
        ("GET /x", "404"),
    ] {
        let answer = http(&ground, &format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}: {answer}"
        );
    }
    let answer = http(
        &ground,
        &format!("GET /health HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(20_000)),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

/// 0.0.1 takes an ack for its heartbeats as a line in its log, 0.2.x needs it: both get it.
#[tokio::test(flavor = "multi_thread")]
async fn daemons_of_both_generations_are_served() {
    let ground = Ground::new();
    for id in ["daemon-0.0.1", "daemon-0.2.1"] {
        let mut peer = ground.registered_raw_daemon(id).await;
        peer.send(r#"{"type":"heartbeat"}"#).await;
        let ack = peer.receive().await;
        assert_eq!(
            (&ack["type"], &ack["success"], &ack["reason"]),
            (&"heartbeat_ack".into(), &true.into(), &"".into())
        );
        let (response, ()) = tokio::join!(ground.exec(id, "true", 30), async {
            let command = peer.receive().await;
            assert_eq!(command["type"], "execute_command");
            assert_eq!(
                (&command["command"], &command["timeout_secs"]),
                (&"true".into(), &30.into())
            );
            assert_eq!(
                (&command["env"], &command["cwd"]),
                (&serde_json::json!({}), &serde_json::Value::Null)
            );
            assert_eq!(command.as_object().unwrap().len(), 6);
            let request = &command["request_id"];
            peer.send(&format!(
                r#"{{"type":"command_output","request_id":{request},"stdout":"o","stderr":"e","exit_code":-1,"duration_ms":5}}"#
            ))
            .await;
        });
        let Response::Output { output } = response else {
            panic!("{response:?}")
        };
        assert_eq!(
            (output.stdout.as_str(), output.exit_code, output.signal),
            ("o", -1, None)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_before_the_ack_and_nothing_bad_kills_a_connection() {
    let ground = Ground::new();
    let mut peer = ground.raw_daemon().await;
    for bad in [
        "",
        "{",
        "[]",
        r#"{"type":"teleport"}"#,
        r#"{"type":"heartbeat","type":"heartbeat"}"#,
    ] {
        peer.send(bad).await;
    }
    peer.0.send(Frame::binary(vec![0, 1, 2])).await.unwrap();
    peer.send(&register("")).await;
    let ack = peer.receive().await;
    assert_eq!((&ack["type"], &ack["success"]), (&"register_ack".into(), &false.into()));
    peer.send(r#"{"type":"heartbeat"}"#).await;
    assert_eq!(peer.receive().await["success"], false);
    peer.send(&register("w")).await;
    assert_eq!(peer.receive().await["success"], true);
    peer.send(
        r#"{"type":"command_output","request_id":"nobody","stdout":"","stderr":"","exit_code":0,"duration_ms":0}"#,
    )
    .await;
    peer.send(&register("other")).await;
    assert_eq!(peer.receive().await["success"], false);
    peer.send(r#"{"type":"heartbeat"}"#).await;
    assert_eq!(peer.receive().await["success"], true);
    let ids: Vec<_> = ground.daemons().await.into_iter().map(|daemon| daemon.id).collect();
    assert_eq!(ids, ["w"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_sixteen_mebibytes_are_taken_and_larger_ones_end_the_connection() {
    let ground = Ground::new();
    let mut peer = ground.registered_raw_daemon("w").await;
    let (response, ()) = tokio::join!(ground.exec("w", "true", 60), async {
        let request = peer.receive_type("execute_command").await["request_id"].clone();
        let empty = format!(
            r#"{{"type":"command_output","request_id":{request},"stdout":"","stderr":"","exit_code":0,"duration_ms":1}}"#
        );
        let filler = "x".repeat(16 * 1024 * 1024 - empty.len());
        peer.send(&empty.replace(r#""stdout":"""#, &format!(r#""stdout":"{filler}""#)))
            .await;
    });
    let Response::Output { output } = response else {
        panic!()
    };
    assert!(output.stdout.len() > 16_000_000);
    let _ = peer.0.send(Frame::text("x".repeat(16 * 1024 * 1024 + 1))).await;
    assert_eq!(peer.receive_or_end().await, None);
    ground.gone("w").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_call_fails_at_once_when_its_daemon_is_lost() {
    let ground = Ground::new();
    for how in ["close", "reset", "oversized"] {
        let mut peer = ground.registered_raw_daemon("w").await;
        let begun = Instant::now();
        let (response, _peer) = tokio::join!(ground.exec("w", "sleep 100", 100), async {
            peer.receive_type("execute_command").await;
            match how {
                "close" => peer.0.close(None).await.unwrap(),
                "reset" => return None,
                _ => drop(peer.0.send(Frame::text("x".repeat(17 * 1024 * 1024))).await),
            }
            Some(peer)
        });
        let Response::Failed { message } = response else {
            panic!("{response:?}")
        };
        assert!(
            message.contains("was lost") && message.contains("may have run"),
            "{how}: {message}"
        );
        assert!(begun.elapsed() < Duration::from_secs(5), "{how}: {:?}", begun.elapsed());
        ground.gone("w").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_id_is_not_given_away_and_a_dead_one_is() {
    let ground = Ground::new();
    let mut first = ground.registered_raw_daemon("w").await;
    let mut second = ground.raw_daemon().await;
    second.send(&register("w")).await;
    // The holder answers the probe because its socket is read.
    let (ack, ()) = tokio::join!(second.receive(), async {
        let probed = tokio::time::timeout(Duration::from_millis(500), first.receive()).await;
        assert!(probed.is_err(), "{probed:?}");
    });
    assert_eq!((&ack["success"], &ack["type"]), (&false.into(), &"register_ack".into()));
    assert!(ack["message"].as_str().unwrap().contains("in use"), "{ack}");
    first.send(r#"{"type":"heartbeat"}"#).await;
    assert_eq!(first.receive().await["success"], true);
    // Nobody reads the first socket any more, as when its host is gone: three seconds later the id is free.
    let begun = Instant::now();
    let mut third = ground.registered_raw_daemon("w").await;
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert_eq!(first.receive_or_end().await, None);
    drop(first);
    third.send(r#"{"type":"heartbeat"}"#).await;
    assert_eq!(third.receive().await["success"], true);
    assert_eq!(ground.daemons().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_process_may_replace_its_own_half_open_connection() {
    let ground = Ground::new();
    let with_secret = register("w").replace(r#""metadata""#, r#""instance":"secret","metadata""#);
    let mut first = ground.raw_daemon().await;
    first.send(&with_secret).await;
    assert_eq!(first.receive().await["success"], true);
    let mut second = ground.raw_daemon().await;
    let begun = Instant::now();
    second.send(&with_secret).await;
    assert_eq!(second.receive().await["success"], true);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(first.receive_or_end().await, None);
    drop(first);
    second.send(r#"{"type":"heartbeat"}"#).await;
    assert_eq!(second.receive().await["success"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_register_does_not_hold_a_place() {
    let ground = Ground::new();
    let mut idle = Vec::new();
    for _ in 0..8 {
        idle.push(TcpStream::connect(ground.address).await.unwrap());
    }
    // The ninth from this address is turned away; those that register do not count.
    let mut ninth = TcpStream::connect(ground.address).await.unwrap();
    let _ = ninth.write_all(b"GET /health HTTP/1.1\r\n\r\n").await;
    let mut answer = String::new();
    ninth.read_to_string(&mut answer).await.ok();
    assert_eq!(answer, "");
    drop(idle);
    crate::harness::eventually("places are free again", async || {
        let answer = try_http(&ground, "GET /health HTTP/1.1\r\n\r\n").await;
        answer
            .is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
            .then_some(())
    })
    .await;
    let mut daemons = Vec::new();
    for number in 0..20 {
        daemons.push(ground.registered_raw_daemon(&format!("w{number}")).await);
    }
    assert_eq!(ground.daemons().await.len(), 20);
}
