//! README's first command.

use std::process::Stdio;

use rustix::process::Signal;

use crate::harness::{Process, run, sandd, text};

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_a_mesh_and_leaves_nothing() {
    let output = run(&["quickstart"]);
    assert!(output.status.success(), "{output:?}");
    let shown = text(&output.stdout);
    for word in [
        "coordinator",
        "100.64.0.1",
        "worker-1 $ uname",
        "worker-2 $ uname",
        "first byte",
        "nothing is left",
    ] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    let paths = shown
        .lines()
        .filter(|line| line.contains("direct ") || line.contains("relayed "))
        .count();
    assert_eq!(paths, 2, "{shown}");
    let json: serde_json::Value = serde_json::from_slice(&run(&["quickstart", "--json"]).stdout).unwrap();
    assert_eq!(json["commands"].as_array().unwrap().len(), 4);
    assert!(json["first_byte_secs"].as_f64().unwrap() < 20.0, "{json}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_be_kept_and_used() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = sandd();
    command
        .args(["quickstart", "--keep"])
        .env("TMPDIR", directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut process = Process::spawn(command, directory.path().join("log"));
    let shown = process.lines_until("sandd exec");
    let socket = shown
        .iter()
        .find_map(|line| line.trim().strip_prefix("export SANDD_SOCKET="))
        .unwrap()
        .to_owned();
    let output = sandd()
        .args(["exec", "worker-2", "--", "echo kept"])
        .env("SANDD_SOCKET", &socket)
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout), "kept\n", "{output:?}");
    process.signal(Signal::INT);
    assert_eq!(process.ended().await, Some(0));
    assert!(!std::path::Path::new(&socket).exists());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}
