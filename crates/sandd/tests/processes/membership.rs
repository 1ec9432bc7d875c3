//! Nodes, daemons and their controller on one mesh: identity, removal, new addresses (S-24, S-27).

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{eventually, sandd, text};
use crate::mesh_ground::MeshGround;

#[tokio::test(flavor = "multi_thread")]
async fn commands_travel_through_the_mesh() {
    let ground = MeshGround::new();
    let _controller = ground.controller("c");
    let _daemon = ground.daemon("worker-1", "d", Some(&ground.key(&[])));
    ground.registered("c", "worker-1").await;
    assert_eq!(ground.exec("c", "worker-1", "echo through"), "through\n");
    let big = ground.exec("c", "worker-1", "head -c 3000000 /dev/zero | tr '\\0' x");
    assert_eq!(big.len(), 3_000_000);
    let status: serde_json::Value = serde_json::from_str(&ground.ask("d", &["status", "--json"]).unwrap()).unwrap();
    assert_eq!(status["control"]["state"], "connected");
    assert_eq!(status["peers"][0]["addresses"][0], ground.address("c").await);
    let human = ground.ask("d", &["status"]).unwrap();
    assert!(
        human.contains("controller.sandd.local") && human.contains("coordinator  connected"),
        "{human}"
    );
    let ping = ground.ask("d", &["ping", "controller"]).unwrap();
    assert!(ping.contains("direct") || ping.contains("relayed"), "{ping}");
    let ping: serde_json::Value =
        serde_json::from_str(&ground.ask("d", &["ping", "--json", "controller"]).unwrap()).unwrap();
    assert!(
        ping["rtt_ms"].as_f64().unwrap() < 5_000.0 && !ping["path"].is_null(),
        "{ping}"
    );
    assert!(ground.ask("d", &["ping", "nobody"]).unwrap_err().contains("nobody"));
    assert!(ground.ask("d", &["netcheck"]).unwrap().contains("UDP"));
    assert!(ground.ask("d", &["ip", "-6"]).unwrap().starts_with("fd7a:115c:a1e0:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_id_belongs_to_the_node_that_claimed_it() {
    let ground = MeshGround::new();
    let mut controller = ground.controller("c");
    let first = ground.daemon("w", "d1", Some(&ground.key(&[])));
    ground.registered("c", "w").await;
    assert_eq!(ground.exec("c", "w", "echo $PPID > /dev/null; echo first"), "first\n");
    let second = ground.daemon("w", "d2", Some(&ground.key(&[])));
    eventually("the second is refused", async || {
        second.log().contains("bound to node").then_some(())
    })
    .await;
    // Also when the first is away, and after the controller forgot everything but its files.
    first.signal(Signal::KILL);
    drop(first);
    controller.signal(Signal::TERM);
    assert_eq!(controller.ended().await, Some(0));
    let mut command = ground.join("controller", "c");
    command.stdout(Stdio::piped());
    let mut controller = ground.start(command, "c2");
    controller.first_line();
    let refusals = second.log().matches("bound to node").count();
    let again = async || (second.log().matches("bound to node").count() > refusals).then_some(());
    eventually("the second is refused again", again).await;
    assert!(ground.daemons("c").is_empty());
    // Once the node is removed, its ids are free.
    ground.order(&["node", "remove", &ground.node("w")]);
    ground.registered("c", "w").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_node_replaces_its_own_connection() {
    let ground = MeshGround::new();
    let _controller = ground.controller("c");
    let first = ground.daemon("w", "d", Some(&ground.key(&[])));
    ground.registered("c", "w").await;
    first.signal(Signal::KILL);
    drop(first);
    // No close frame came: the old connection looks alive, but its node proves that it is the same.
    let begun = Instant::now();
    let second = ground.daemon("w", "d", None);
    eventually("it registers", async || {
        second.log().contains("registered daemon_id=w").then_some(())
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_eq!(ground.exec("c", "w", "echo again"), "again\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_node_is_cut_off_and_says_so() {
    let ground = MeshGround::new();
    let _controller = ground.controller("c");
    let daemon = ground.daemon("w", "d", Some(&ground.key(&[])));
    ground.registered("c", "w").await;
    let begun = Instant::now();
    ground.order(&["node", "remove", &ground.node("w")]);
    eventually("the controller drops it", async || {
        ground.daemons("c").is_empty().then_some(())
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    eventually("it says so", async || {
        daemon.log().contains("removed at the coordinator").then_some(())
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let says = async || {
        ground
            .ask("d", &["status"])
            .unwrap()
            .contains("removed at the coordinator")
            .then_some(())
    };
    eventually("its status says so", says).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_with_a_new_address_is_found_by_its_name() {
    let ground = MeshGround::new();
    let controller = ground.controller("c1");
    let _daemon = ground.daemon("w", "d", Some(&ground.key(&[])));
    ground.registered("c1", "w").await;
    let old = ground.address("c1").await;
    // Its host is gone without a word; somebody removes the node and starts a new one of the same name.
    controller.signal(Signal::KILL);
    drop(controller);
    ground.order(&["node", "remove", &ground.node("controller")]);
    let begun = Instant::now();
    let _controller = ground.controller("c2");
    ground.registered("c2", "w").await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_ne!(ground.address("c2").await, old);
    assert_eq!(ground.exec("c2", "w", "echo found"), "found\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_controller_listens_on_its_mesh_address_only() {
    let ground = MeshGround::new();
    let controller = ground.controller("c");
    let inodes: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", controller.child.id()))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in std::fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            let listens = fields[3] == "0A" && inodes.iter().any(|inode| inode == fields[9]);
            assert!(!listens, "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_with_the_same_state_names_the_first() {
    let ground = MeshGround::new();
    let controller = ground.controller("c");
    let output = ground.join("controller", "c").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let pid = controller.child.id().to_string();
    assert!(text(&output.stderr).contains(&pid), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_lets_a_node_in_and_it_logs_out() {
    let ground = MeshGround::new();
    let node = ground.start(ground.join("up", "n"), "n");
    let login = eventually("it asks", async || {
        let logins = ground.order(&["login", "list", "--json"]);
        let logins: serde_json::Value = serde_json::from_str(&logins).unwrap();
        Some(logins[0]["id"].as_str()?.to_owned())
    })
    .await;
    eventually("it shows where", async || {
        node.log().contains("log this node in").then_some(())
    })
    .await;
    ground.order(&["login", "approve", &login]);
    ground.address("n").await;
    assert!(ground.ask("n", &["logout"]).unwrap().contains("logged out"));
    let gone = async || {
        ground
            .order(&["node", "list", "--json"])
            .contains("\"expired\": true")
            .then_some(())
    };
    let none = async || (ground.order(&["node", "list"]) == "none").then_some(());
    tokio::select! { () = eventually("its key has ended", gone) => {}, () = eventually("it is forgotten", none) => {} }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_daemon_leaves_no_trace() {
    let ground = MeshGround::new();
    let _controller = ground.controller("c");
    let key = ground.key(&["--reusable", "--ephemeral"]);
    for _ in 0..2 {
        let mut command = ground.join("daemon", "d");
        command.args(["--tunnel-ephemeral", "-s", "ws://controller:8765/ws", "-d", "w"]);
        command.env("SANDD_TUNNEL_AUTH_KEY", &key);
        let mut daemon = ground.start(command, "d");
        ground.registered("c", "w").await;
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().await, Some(0));
        let forgotten = async || (!ground.order(&["node", "list"]).contains(" w ")).then_some(());
        eventually("the node is forgotten", forgotten).await;
        assert!(!ground.path("d/state.json").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_daemon_needs_no_directory() {
    let ground = MeshGround::new();
    let _controller = ground.controller("c");
    let mut command = ground.join("daemon", "no");
    std::fs::write(ground.path("no"), "in the way").unwrap();
    command.args(["--tunnel-ephemeral", "-s", "ws://controller:8765/ws"]);
    command.env("SANDD_TUNNEL_AUTH_KEY", ground.key(&["--ephemeral"]));
    let _daemon = ground.start(command, "d");
    eventually("it registers", async || (ground.daemons("c").len() == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_inside_the_controller() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let start = |listen: &str| {
        let mut command = sandd();
        command.args([
            "controller",
            "--tunnel",
            "--tunnel-port",
            "1",
            "--coordinator-listen",
            listen,
        ]);
        command
            .arg("--tunnel-state-dir")
            .arg(path("c"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        crate::harness::Process::spawn(command, path("c.log"))
    };
    let mut controller = start("127.0.0.1:0");
    let invitation = controller.lines_until("Further keys");
    let line = invitation
        .iter()
        .find(|line| line.contains("SANDD_TUNNEL_AUTH_KEY="))
        .unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    let (variable, arguments) = (words[0].split_once('=').unwrap(), &words[2..]);
    let mut command = sandd();
    command
        .env(variable.0, variable.1)
        .args(arguments)
        .arg("--tunnel-state-dir")
        .arg(path("d"));
    command
        .args(["--tunnel-port", "1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let _daemon = crate::harness::Process::spawn(command, path("d.log"));
    let exec = |command: &str| {
        let output = sandd()
            .args(["exec", "--tunnel-state-dir"])
            .arg(path("c"))
            .args(["worker-1", "--", command])
            .output();
        let output = output.unwrap();
        output.status.success().then(|| text(&output.stdout))
    };
    assert_eq!(
        eventually("the command that was printed works", async || exec("echo hello")).await,
        "hello\n"
    );
    let socket = path("c").join("coordinator.sock");
    let key = sandd()
        .args(["coordinator", "key", "create", "--socket"])
        .arg(&socket)
        .output()
        .unwrap();
    assert!(text(&key.stdout).starts_with("hskey-auth-"), "{key:?}");
    // It comes back with the same mesh, and the daemon with it.
    let listen = line
        .split_whitespace()
        .last()
        .unwrap()
        .trim_start_matches("http://")
        .to_owned();
    controller.signal(Signal::TERM);
    assert_eq!(controller.ended().await, Some(0));
    let _controller = start(&listen);
    assert_eq!(
        eventually("all is as before", async || exec("echo again")).await,
        "again\n"
    );
}
