//! Bad input gets one clear line on stderr and a non-zero exit code, never a backtrace (spec §8.1).

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
