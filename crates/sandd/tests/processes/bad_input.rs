//! Bad input gets one clear line on stderr and a non-zero exit code, never a backtrace.

use crate::harness::{run, sandd, text};

/// Arguments, exit code, what the line must say.
const ROWS: &[(&[&str], i32, &str)] = &[
    (&[], 2, "--server-url"),
    (&["daemon"], 2, "--server-url"),
    (&["nonsense"], 2, "nonsense"),
    (&["--nonsense"], 2, "--nonsense"),
    (&["-s"], 2, "--server-url"),
    (&["-s", ""], 2, "--server-url"),
    (&["-s", "controller"], 2, "ws://controller:8765/ws"),
    (&["-s", "http://controller/ws"], 2, "ws or wss"),
    (&["-s", "ws://u:p@controller/ws"], 2, "password"),
    (&["-s", "ws://controller:0/ws"], 2, "port 0"),
    (&["-s", "ws://controller:70000/ws"], 2, "port"),
    (&["-s", "ws://c/ws", "-d", ""], 2, "empty"),
    (&["-s", "ws://c/ws", "-d", "a b"], 2, "letters, digits"),
    (&["-s", "ws://c/ws", "-d", "../x"], 2, "letters, digits"),
    (&["-s", "ws://c/ws", "-r", "x"], 2, "--reconnect-interval"),
    (&["-s", "ws://c/ws", "-r", "-1"], 2, "-1"),
    (
        &["-s", "ws://c/ws", "--heartbeat-interval", "0"],
        2,
        "--heartbeat-interval",
    ),
    (
        &["-s", "ws://c/ws", "--heartbeat-interval", "99999999999999999999"],
        2,
        "--heartbeat-interval",
    ),
    (&["-s", "ws://c/ws", "--max-commands", "0"], 2, "--max-commands"),
    (&["-s", "ws://c/ws", "--ca-file", "/no/such/file"], 1, "/no/such/file"),
    (&["-s", "ws://c/ws", "--ca-file", "/dev/null"], 1, "no certificate"),
    (&["daemon", "-s", "ws://c/ws", "-l", "nonsense"], 2, "KEY=VALUE"),
    (&["-s", "ws://c/ws", "-s", "ws://d/ws"], 2, "--server-url"),
    (&["controller", "--port", "70000"], 2, "--port"),
    (&["controller", "--port", "x"], 2, "--port"),
    (&["controller", "--tls-cert", "x"], 2, "--tls-key"),
    (
        &[
            "controller",
            "--host",
            "no.such.host.invalid",
            "--socket",
            "/tmp/sandd-never.sock",
        ],
        1,
        "cannot listen",
    ),
    (
        &[
            "controller",
            "--tls-cert",
            "/dev/null",
            "--tls-key",
            "/dev/null",
            "--socket",
            "/tmp/sandd-never.sock",
        ],
        1,
        "/dev/null",
    ),
    (&["exec"], 2, "DAEMON"),
    (&["exec", "w"], 2, "CMD"),
    (&["exec", "w", "true"], 2, "true"),
    (&["exec", "--timeout", "-1", "w", "--", "true"], 2, "-1"),
    (&["exec", "--timeout", "1e9", "w", "--", "true"], 2, "--timeout"),
    (&["exec", "--timeout", "99999999", "w", "--", "true"], 2, "--timeout"),
    (&["exec", "--env", "nonsense", "w", "--", "true"], 2, "KEY=VALUE"),
    (&["exec", "--env", "=x", "w", "--", "true"], 2, "KEY=VALUE"),
    (
        &["exec", "--socket", "/no/such.sock", "w", "--", "true"],
        125,
        "nothing runs at /no/such.sock",
    ),
    (&["exec", "--socket", "/dev/null", "w", "--", "true"], 125, "/dev/null"),
    (
        &["daemons", "--socket", "/no/such.sock"],
        1,
        "nothing runs at /no/such.sock",
    ),
    (&["daemons", "--label", "x"], 2, "KEY=VALUE"),
    (&["daemons", "more"], 2, "more"),
    (&["-s", "ws://c/ws", "--tunnel"], 1, "--tunnel-server"),
    (
        &["daemon", "-s", "ws://c/ws", "--tunnel", "--tunnel-authkey", "-"],
        1,
        "--tunnel-server",
    ),
    (&["-s", "ws://c/ws", "--tunnel-server", "ftp://x"], 2, "http"),
    (&["-s", "ws://c/ws", "--tunnel-server", "http://h/path"], 2, "path"),
    (&["-s", "ws://c/ws", "--tunnel-server", "http://u:p@h"], 2, "password"),
    (&["-s", "ws://c/ws", "--tunnel-server", ""], 2, "--tunnel-server"),
    (&["-s", "ws://c/ws", "--tunnel-hostname", "a.b"], 2, "--tunnel-hostname"),
    (&["-s", "ws://c/ws", "--tunnel-tun", "a/b"], 2, "--tunnel-tun"),
    (&["-s", "ws://c/ws", "--tunnel-port", "0"], 2, "--tunnel-port"),
    (&["up"], 1, "--tunnel-server"),
    (
        &["up", "--tunnel-server", "http://h", "--tunnel-authkey", "file:/no/such"],
        1,
        "/no/such",
    ),
    (
        &[
            "up",
            "--tunnel-server",
            "http://h",
            "--tunnel-authkey",
            "file:/dev/null",
        ],
        2,
        "empty",
    ),
    (
        &["up", "--tunnel-server", "http://h", "--tunnel-authkey", "-"],
        2,
        "empty",
    ),
    (
        &["up", "--tunnel-server", "http://h", "--tunnel-authkey"],
        2,
        "--tunnel-authkey",
    ),
    (
        &["up", "--tunnel-server", "http://h", "--tunnel-state-dir", "/dev/null/x"],
        1,
        "/dev/null/x",
    ),
    (
        &["up", "--tunnel-server", "http://h", "--tunnel-state-dir", "/tmp"],
        1,
        "chmod 700 /tmp",
    ),
    (
        &["controller", "--tunnel", "--tls-cert", "x", "--tls-key", "y"],
        2,
        "--tunnel",
    ),
    (
        &["controller", "--tunnel", "--coordinator-listen", "nowhere"],
        2,
        "--coordinator-listen",
    ),
    (
        &["status", "--tunnel-state-dir", "/no/such"],
        1,
        "nothing runs at /no/such",
    ),
    (&["status", "--role", "king"], 2, "king"),
    (&["ip", "-4", "-6"], 2, "-6"),
    (&["ping"], 2, "PEER"),
    (&["ping", "--timeout", "-1", "x"], 2, "-1"),
    (&["ping", "--timeout", "nan", "x"], 2, "--timeout"),
    (&["ping", "--count", "0", "x"], 2, "--count"),
    (&["coordinator", "--listen", "x"], 2, "--listen"),
    (&["coordinator", "--stun", "x"], 2, "--stun"),
    (&["coordinator", "--policy", "/no/such", "--memory"], 1, "/no/such"),
    (
        &[
            "coordinator",
            "--state",
            "/no/such/x.db",
            "--listen",
            "127.0.0.1:0",
            "--stun",
            "off",
        ],
        1,
        "/no/such/x.db",
    ),
    (&["coordinator", "key"], 2, "create"),
    (&["coordinator", "key", "create", "--expiry", "soon"], 2, "24h"),
    (
        &["coordinator", "key", "create", "--socket", "/no/such"],
        1,
        "nothing runs at /no/such",
    ),
    (&["coordinator", "key", "revoke", "x"], 2, "x"),
    (&["coordinator", "node", "remove"], 2, "ID"),
    (&["logout", "--tunnel-state-dir", "/no/such"], 1, "nothing runs at"),
    (&["quickstart", "more"], 2, "more"),
];

#[test]
fn one_line_and_an_exit_code() {
    for (arguments, code, word) in ROWS {
        let output = run(arguments);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {stderr}");
        let lines: Vec<_> = stderr.lines().filter(|line| line.starts_with("sandd: ")).collect();
        assert_eq!(lines.len(), 1, "{arguments:?}: {stderr}");
        assert!(lines[0].contains(word), "{arguments:?}: {stderr}");
        assert!(
            !stderr.contains("backtrace") && !stderr.contains("panicked"),
            "{stderr}"
        );
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    let version = run(&["--version"]);
    assert!(version.status.success());
    assert_eq!(text(&version.stdout), format!("sandd {}\n", env!("CARGO_PKG_VERSION")));
    for arguments in [
        &["--help"][..],
        &["daemon", "--help"],
        &["exec", "-h"],
        &["controller", "--help"],
    ] {
        let help = run(arguments);
        assert!(
            help.status.success() && text(&help.stdout).contains("Usage"),
            "{arguments:?}"
        );
        assert!(help.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn open_mode_can_be_forbidden() {
    let output = sandd()
        .arg("controller")
        .env("SANDD_REQUIRE_AUTH", "1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("SANDD_REQUIRE_AUTH"), "{output:?}");
}

#[test]
fn no_colour_where_there_is_no_terminal() {
    let output = run(&["-s", "ws://c/ws", "-l", "nonsense", "--ca-file", "/dev/null"]);
    assert!(text(&output.stderr).contains("skipped"), "{output:?}");
    assert!(!text(&output.stderr).contains('\x1b'), "{output:?}");
    let output = run(&[
        "--log-format",
        "json",
        "-s",
        "ws://c/ws",
        "-l",
        "nonsense",
        "--ca-file",
        "/dev/null",
    ]);
    let stderr = text(&output.stderr);
    let line = stderr.lines().next().unwrap();
    let json: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!((&json["level"], &json["label"]), (&"WARN".into(), &"nonsense".into()));
}
