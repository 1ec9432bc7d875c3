//! Restarts, ids, labels, TLS: what happens over days, in seconds.

use std::process::Stdio;

use rustix::process::Signal;
use sandd::local::Response;

use crate::harness::{Ground, daemon, eventually, run, sandd, text};

#[tokio::test(flavor = "multi_thread")]
async fn daemons_find_a_restarted_controller() {
    let mut ground = Ground::new();
    let _a = ground.daemon("a", &[]).await;
    let _b = ground.daemon("b", &[]).await;
    for signal in [Signal::TERM, Signal::KILL] {
        ground.controller.signal(signal);
        ground.controller.ended().await;
        let Ground { directory, address, .. } = ground;
        ground = Ground::with_port(address.port(), directory);
        ground.registered("a").await;
        ground.registered("b").await;
        let Response::Output { output } = ground.exec("a", "echo back", 5).await else {
            panic!()
        };
        assert_eq!(output.stdout, "back\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_stops_with_exit_code_zero_and_cleans_up() {
    let mut ground = Ground::new();
    let _daemon = ground.daemon("a", &[]).await;
    assert!(ground.socket().exists());
    ground.controller.signal(Signal::TERM);
    assert_eq!(ground.controller.ended().await, Some(0));
    assert!(!ground.socket().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_kept_over_restarts() {
    let ground = Ground::new();
    let state = ground.directory.path().join("state");
    let start = || {
        let mut command = sandd();
        command
            .args(["daemon", "--server-url", &ground.url(), "--tunnel-state-dir"])
            .arg(&state);
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    let mut ids = Vec::new();
    for _ in 0..2 {
        let mut child = start();
        let id = eventually("it registers", async || ground.daemons().await.pop())
            .await
            .id;
        child.kill().unwrap();
        child.wait().unwrap();
        ground.gone(&id).await;
        ids.push(id);
    }
    assert_eq!(ids[0], ids[1]);
    let mut first = start();
    ground.registered(&ids[0]).await;
    let output = sandd()
        .args(["daemon", "-s", &ground.url(), "--tunnel-state-dir"])
        .arg(&state)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("another daemon has the id"), "{output:?}");
    first.kill().unwrap();
    first.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_of_one_id_do_not_take_turns() {
    let ground = Ground::new();
    let first = ground.daemon("w", &["-l", "n=1"]).await;
    let second = daemon(&ground.url(), "w", &["-l", "n=2", "-r", "1"], ground.directory.path());
    eventually("the second is refused", async || {
        second.log().contains("in use").then_some(())
    })
    .await;
    assert_eq!(ground.registered("w").await.labels["n"], "1");
    first.signal(Signal::KILL);
    eventually("the second gets the id", async || {
        ground
            .daemons()
            .await
            .iter()
            .any(|daemon| daemon.labels["n"] == "2")
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_daemons() {
    let ground = Ground::new();
    let socket = ground.socket();
    let list = |more: &[&str]| {
        let output = sandd()
            .args(["daemons", "--socket"])
            .arg(&socket)
            .args(more)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout)
    };
    assert_eq!(list(&[]), "no daemons are connected\n");
    assert_eq!(list(&["--json"]), "[]\n");
    let _a = ground.daemon("a", &["-l", "pool=gpu", "-l", "zone=b"]).await;
    let _b = ground.daemon("b", &["-l", "pool=gpu"]).await;
    assert_eq!(list(&[]).lines().count(), 3);
    let ids = |more: &[&str]| {
        let json: serde_json::Value = serde_json::from_str(&list(&[&["--json"], more].concat())).unwrap();
        json.as_array()
            .unwrap()
            .iter()
            .map(|daemon| daemon["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&["-l", "pool=gpu"]), ["a", "b"]);
    assert_eq!(ids(&["-l", "pool=gpu", "-l", "zone=b"]), ["a"]);
    assert!(ids(&["-l", "pool=cpu"]).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_controllers_do_not_share_a_port_or_a_socket() {
    let ground = Ground::new();
    let port = ground.address.port().to_string();
    let other = ground.directory.path().join("other.sock");
    let output = run(&[
        "controller",
        "--host",
        "127.0.0.1",
        "--port",
        &port,
        "--socket",
        other.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("cannot listen on 127.0.0.1"),
        "{output:?}"
    );
    let socket = ground.socket();
    let output = run(&[
        "controller",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--socket",
        socket.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("another process answers"), "{output:?}");
    assert!(ground.daemons().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_in_direct_mode() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(path("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let mut command = sandd();
    command.args([
        "controller",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--tls-cert",
        &path("cert.pem"),
    ]);
    command
        .args(["--tls-key", &path("key.pem"), "--socket", &path("c.sock")])
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut controller = command.spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(controller.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    let port = line
        .trim()
        .strip_prefix("controller ready at wss://127.0.0.1:")
        .unwrap()
        .strip_suffix("/ws")
        .unwrap();
    let url = format!("wss://localhost:{port}/ws");
    let trusting = daemon(&url, "trusting", &["--ca-file", &path("cert.pem")], directory.path());
    let distrusting = daemon(&url, "distrusting", &["-r", "1"], directory.path());
    eventually("the one registers", async || {
        trusting.log().contains("registered").then_some(())
    })
    .await;
    eventually("the other does not", async || {
        distrusting.log().contains("TLS with localhost").then_some(())
    })
    .await;
    assert!(!distrusting.log().contains("registered"));
    controller.kill().unwrap();
    controller.wait().unwrap();
}
