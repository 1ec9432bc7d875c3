//! How a key gets in, and that nobody else sees it (S-02, S-03).

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::harness::text;
use crate::mesh_ground::{MeshGround, shows};

#[tokio::test(flavor = "multi_thread")]
async fn every_way_of_giving_a_key() {
    let ground = MeshGround::new();
    let file = |key: &str, name: &str| {
        let path = ground.path(name);
        std::fs::write(&path, format!("{key}\n")).unwrap();
        path.display().to_string()
    };
    let keys: Vec<String> = (0..7).map(|_| ground.key(&[])).collect();
    let mut nodes = Vec::new();
    for (number, key) in keys.iter().enumerate() {
        let mut command = ground.join("up", &format!("n{number}"));
        match number {
            0 => command.args(["--tunnel-authkey", key]),
            1 => command.arg(format!("--tunnel-authkey={key}")),
            2 => command.args(["--tunnel-authkey", &format!("file:{}", file(key, "key2"))]),
            3 => command.args(["--tunnel-authkey", "-"]).stdin(Stdio::piped()),
            4 => command.env("SANDD_TUNNEL_AUTH_KEY", key),
            5 => command.env("SANDD_TUNNEL_AUTHKEY", key),
            _ => command.env("SANDD_TUNNEL_AUTH_KEY_FILE", file(key, "key6")),
        };
        let mut node = ground.start(command, &format!("n{number}"));
        if number == 3 {
            node.child.stdin.take().unwrap().write_all(key.as_bytes()).unwrap();
        }
        nodes.push(node);
    }
    for (number, (node, key)) in nodes.iter().zip(&keys).enumerate() {
        ground.address(&format!("n{number}")).await;
        assert!(!shows(node.child.id(), key), "way {number}");
        assert!(!node.log().contains(key), "way {number}");
        assert_eq!(
            node.log().contains("warning"),
            number < 2,
            "way {number}: {}",
            node.log()
        );
    }
    for (number, key) in keys.iter().enumerate() {
        for entry in std::fs::read_dir(ground.path(&format!("n{number}"))).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap_or_default();
            assert!(!text(&bytes).contains(key), "{}", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_argv_is_gone_at_once() {
    let ground = MeshGround::new();
    let key = ground.key(&[]);
    let mut command = ground.join("up", "n");
    command.args(["--tunnel-authkey", &key]);
    let begun = Instant::now();
    let node = ground.start(command, "n");
    while shows(node.child.id(), &key) {
        assert!(begun.elapsed() < Duration::from_secs(2), "still there");
        tokio::task::yield_now().await;
    }
    ground.address("n").await;
    assert!(!shows(node.child.id(), &key));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_do_not_see_the_key_nor_its_pipe() {
    let ground = MeshGround::new();
    let _controller = ground.controller("c");
    let key = ground.key(&[]);
    let _daemon = ground.daemon("w", "d", Some(&key));
    ground.registered("c", "w").await;
    let seen = ground.exec(
        "c",
        "w",
        "env; cat /proc/self/environ; ls /proc/self/fd | wc -w; cat /proc/$PPID/cmdline",
    );
    assert!(!seen.contains(&key) && !seen.contains("SANDD_"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_key_a_wrong_key_and_no_key() {
    let ground = MeshGround::new();
    let key = ground.key(&[]);
    let mut command = ground.join("up", "first");
    command.env("SANDD_TUNNEL_AUTH_KEY", &key);
    let first = ground.start(command, "first");
    ground.address("first").await;
    for (key, word) in [(key.as_str(), "used"), ("hskey-auth-nonsense", "key")] {
        let output = ground
            .join("up", "second")
            .env("SANDD_TUNNEL_AUTH_KEY", key)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let stderr = text(&output.stderr);
        let line = stderr.lines().find(|line| line.starts_with("sandd: ")).unwrap();
        assert!(line.contains(word) && !line.contains("hskey"), "{line}");
    }
    let mut daemon = ground.join("daemon", "third");
    let output = daemon
        .args(["--server-url", "ws://controller:8765/ws"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("--tunnel-authkey"), "{output:?}");
    drop(first);
    // With state no key is needed any more.
    let _again = ground.start(ground.join("up", "first"), "again");
    ground.address("first").await;
}
