//! Commands: exit codes, deaths, output, environment, order.

use std::time::{Duration, Instant};

use sandd::controller::CommandRequest;
use sandd::local::Response;

use crate::harness::{Ground, text};

/// What a command should come to.
enum Expect {
    /// Exit code and stdout.
    Exit(i32, &'static str),
    /// Signal.
    Killed(i32),
    /// A refusal that says this.
    Refused(&'static str),
    /// Out of time.
    TimedOut,
}

use Expect::{Exit, Killed, Refused, TimedOut};

const ROWS: &[(&str, Expect)] = &[
    ("true", Exit(0, "")),
    ("false", Exit(1, "")),
    ("exit 0", Exit(0, "")),
    ("exit 2", Exit(2, "")),
    ("exit 77", Exit(77, "")),
    ("exit 124", Exit(124, "")),
    ("exit 127", Exit(127, "")),
    ("exit 128", Exit(128, "")),
    ("exit 137", Exit(137, "")),
    ("exit 255", Exit(255, "")),
    ("exit 256", Exit(0, "")),
    ("no-such-program-anywhere", Exit(127, "")),
    ("/", Exit(126, "")),
    ("/etc/passwd", Exit(126, "")),
    ("if then", Exit(2, "")),
    ("echo out; exit 3", Exit(3, "out\n")),
    ("printf 'no newline'", Exit(0, "no newline")),
    ("printf '  blanks  '", Exit(0, "  blanks  ")),
    ("echo a | cat | wc -l | tr -d ' '", Exit(0, "1\n")),
    ("false | true", Exit(0, "")),
    ("true && false", Exit(1, "")),
    ("cat", Exit(0, "")),
    ("read x; echo \"rc $?\"", Exit(0, "rc 1\n")),
    ("for i in 1 2 3; do printf $i; done", Exit(0, "123")),
    ("sh -c 'exit 9'", Exit(9, "")),
    ("sh -c 'kill -9 $$'; echo $?", Exit(0, "137\n")),
    ("kill -9 $$", Killed(9)),
    ("kill -15 $$", Killed(15)),
    ("kill -1 $$", Killed(1)),
    ("kill -2 $$", Killed(2)),
    ("kill -6 $$", Killed(6)),
    ("kill -11 $$", Killed(11)),
    ("kill -13 $$", Killed(13)),
    ("kill -14 $$", Killed(14)),
    ("trap 'exit 5' TERM; kill -15 $$", Exit(5, "")),
    ("exec sh -c 'exit 6'", Exit(6, "")),
    ("(exit 8)", Exit(8, "")),
    ("sleep 30", TimedOut),
    ("while :; do :; done", TimedOut),
    ("trap '' TERM INT HUP; while :; do sleep 0.1; done", TimedOut),
    ("printf 'nul\\0here' | tr '\\0' '!'", Exit(0, "nul!here")),
    ("\0", Refused("NUL")),
];

fn ignored_here(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default();
    mask >> (signal - 1) & 1 == 1
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_end_is_told_truly() {
    let ground = Ground::new();
    let _daemon = ground.daemon("w", &[]).await;
    let (ground, mut answers) = (&ground, Vec::new());
    for (command, expect) in ROWS {
        let timeout = if matches!(expect, TimedOut) { 1 } else { 20 };
        answers.push(async move { (command, expect, ground.exec("w", *command, timeout).await) });
    }
    for (command, expect, response) in futures_util::future::join_all(answers).await {
        match (expect, response) {
            (Exit(code, stdout), Response::Output { output }) => {
                assert_eq!(
                    (output.exit_code, output.stdout.as_str()),
                    (*code, *stdout),
                    "{command}: {output:?}"
                );
                assert_eq!(output.signal, None, "{command}");
            }
            // A signal that this test was started to ignore, as by `nohup`, is ignored by its children, too.
            (Killed(signal), Response::Output { .. }) if ignored_here(*signal) => {}
            (Killed(signal), Response::Output { output }) => {
                assert_eq!(
                    (output.exit_code, output.signal),
                    (-1, Some(*signal)),
                    "{command}: {output:?}"
                );
            }
            (Refused(word), Response::Failed { message }) => assert!(message.contains(word), "{command}: {message}"),
            (TimedOut, Response::TimedOut { message, .. }) => {
                assert!(message.contains("timed out"), "{command}: {message}");
            }
            (_, other) => panic!("{command}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_passes_on_status_and_both_outputs() {
    let ground = Ground::new();
    let _daemon = ground.daemon("w", &[]).await;
    let output = ground.cli_exec(&["w", "--", "echo out; echo err >&2; exit 7"]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(
        (text(&output.stdout).as_str(), text(&output.stderr).as_str()),
        ("out\n", "err\n")
    );
    let output = ground.cli_exec(&["w", "--", "echo", "$HOME", "a  b", "it's"]);
    assert_eq!(text(&output.stdout), "$HOME a  b it's\n");
    let output = ground.cli_exec(&["w", "--", "kill -9 $$"]);
    assert_eq!(output.status.code(), Some(137));
    let output = ground.cli_exec(&["--timeout", "1", "w", "--", "echo begun; sleep 60"]);
    assert_eq!(output.status.code(), Some(124));
    assert_eq!(text(&output.stdout), "begun\n");
    assert!(text(&output.stderr).contains("timed out"), "{output:?}");
    let output = ground.cli_exec(&["nobody", "--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("daemon 'nobody' not found"), "{output:?}");
    let output = ground.cli_exec(&["--json", "w", "--", "printf x; exit 4"]);
    assert_eq!(output.status.code(), Some(4));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["stdout"], &json["exit_code"]), (&"x".into(), &4.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn environment_and_directory() {
    let ground = Ground::new();
    let mut command = crate::harness::sandd();
    command.args(["--server-url", &ground.url(), "--daemon-id", "w"]);
    for (name, value) in [
        ("SANDD_SECRET", "s"),
        ("SERVER_URL", "ws://x/ws"),
        ("DAEMON_ID", "y"),
        ("KEPT", "yes"),
    ] {
        command.env(name, value);
    }
    let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    ground.registered("w").await;
    let output = ground.cli_exec(&[
        "--env",
        "A=b c=\"d\" ü",
        "--env",
        "KEPT2=x",
        "--cwd",
        "/usr",
        "w",
        "--",
        "pwd; echo \"$A|$KEPT|$KEPT2|$SANDD_SECRET|$SERVER_URL|$DAEMON_ID|\"; env | grep -c SANDD_",
    ]);
    assert_eq!(text(&output.stdout), "/usr\nb c=\"d\" ü|yes|x||||\n0\n");
    for (cwd, word) in [
        ("/no/such/directory", "No such file"),
        ("/etc/passwd", "not a directory"),
    ] {
        let output = ground.cli_exec(&["--cwd", cwd, "w", "--", "true"]);
        assert_eq!(output.status.code(), Some(125));
        assert!(
            text(&output.stderr).contains(word) && text(&output.stderr).contains(cwd),
            "{output:?}"
        );
    }
    let mut request = CommandRequest::new("true");
    request.env.insert("A=B".into(), "c".into());
    assert!(matches!(
        ground.exec_request("w", request).await,
        Response::Failed { .. }
    ));
    let long = "x".repeat(200_000);
    let refused = ground.exec("w", format!(": {long}"), 5).await;
    assert!(
        matches!(&refused, Response::Failed { message } if message.contains("too long")),
        "{refused:?}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_background_child_does_not_hold_the_answer() {
    let ground = Ground::new();
    let _daemon = ground.daemon("w", &[]).await;
    let begun = Instant::now();
    let Response::Output { output } = ground.exec("w", "echo now; sleep 60 & exit 4", 30).await else {
        panic!()
    };
    assert_eq!((output.exit_code, output.stdout.as_str()), (4, "now\n"));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    // It may go on writing: the pipe is still read.
    let file = ground.directory.path().join("alive");
    let command = format!(
        "(sleep 0.5; yes | head -c 300000; echo done > {}) & exit 0",
        file.display()
    );
    let Response::Output { output } = ground.exec("w", command, 30).await else {
        panic!()
    };
    assert_eq!(output.exit_code, 0);
    crate::harness::eventually("the background child ends well", async || {
        std::fs::read_to_string(&file).ok().filter(|text| text == "done\n")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_output_keeps_its_ends_and_fits_a_frame() {
    let ground = Ground::new();
    let _daemon = ground.daemon("w", &[]).await;
    let whole = "yes 0123456789 | head -c 7000000";
    let Response::Output { output } = ground.exec("w", whole, 60).await else {
        panic!()
    };
    assert_eq!((output.stdout.len(), output.truncated), (7_000_000, false));
    for command in [
        "echo first; yes | head -c 40000000; echo last",
        "echo first; head -c 9000000 /dev/zero; echo last",
        "echo first; head -c 20000000 /dev/urandom; echo; echo last",
        "(head -c 9000000 /dev/zero >&2) & echo first; head -c 9000000 /dev/zero; wait; echo last",
    ] {
        let Response::Output { output } = ground.exec("w", command, 60).await else {
            panic!("{command}")
        };
        assert!(
            output.truncated && output.stdout_bytes.unwrap() >= 9_000_000,
            "{command}"
        );
        assert!(
            output.stdout.starts_with("first\n") && output.stdout.ends_with("last\n"),
            "{command}"
        );
        assert!(output.stdout.contains("bytes left out"), "{command}");
        let length = serde_json::to_string(&output.stdout).unwrap().len();
        assert!((4_000_000..16 * 1024 * 1024).contains(&length), "{command}: {length}");
    }
    let Response::Output { output } = ground.exec("w", "printf 'a\\377b'", 5).await else {
        panic!()
    };
    assert_eq!(output.stdout, "a\u{fffd}b");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_run_at_once_and_one_by_one_when_asked() {
    let ground = Ground::new();
    let _wide = ground.daemon("wide", &[]).await;
    let _narrow = ground.daemon("narrow", &["--max-commands", "1"]).await;
    let begun = Instant::now();
    let all = futures_util::future::join_all((0..64).map(|_| ground.exec("wide", "sleep 1", 30))).await;
    assert!(
        all.iter()
            .all(|response| matches!(response, Response::Output { output } if output.exit_code == 0))
    );
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    let file = ground.directory.path().join("order");
    let path = file.display();
    let first = ground.exec(
        "narrow",
        format!("sleep 0.3; echo 1 >> {path}; sleep 0.1; echo 2 >> {path}"),
        30,
    );
    let second = async {
        let busy = async || {
            ground
                .daemons()
                .await
                .iter()
                .any(|d| d.id == "narrow" && d.is_busy)
                .then_some(())
        };
        crate::harness::eventually("the first command is sent", busy).await;
        ground.exec("narrow", format!("echo 3 >> {path}"), 30).await
    };
    tokio::join!(first, second);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "1\n2\n3\n");
}
