//! No process outlives the deadline of its command, nor its daemon (S-43).

use std::time::{Duration, Instant};

use rustix::process::Signal;
use sandd::local::Response;

use crate::harness::{Ground, eventually};

/// Command lines of living processes that contain this word.
fn alive(word: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap();
    let command_line = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.ok()?.path();
        path.file_name()?.to_str()?.parse::<u32>().ok()?;
        let text = String::from_utf8_lossy(&std::fs::read(path.join("cmdline")).ok()?).replace('\0', " ");
        text.contains(word).then_some(text)
    };
    entries.filter_map(command_line).collect()
}

/// Commands that try to get away; `MARK` is a number of seconds that nobody else sleeps.
const ESCAPES: &[&str] = &[
    "sleep MARK",
    "sleep MARK & wait",
    "sleep MARK & sleep MARK & sleep MARK",
    "setsid sleep MARK & wait",
    "setsid sh -c 'setsid sleep MARK & setsid sleep MARK & wait' & wait",
    "(setsid sh -c '(setsid sleep MARK &) ; exit 0' &) ; sleep MARK",
    "trap '' TERM; sleep MARK & wait; wait; sleep MARK",
    "env -i setsid nohup sleep MARK >/dev/null 2>&1 & sleep MARK",
    "sh -c 'kill -STOP $$; sleep MARK' & sleep MARK",
    "setsid sh -c 'trap \"\" TERM HUP INT; while :; do sleep MARK; done' & sleep MARK",
    "i=0; while [ $i -lt 150 ]; do setsid sleep MARK & i=$((i+1)); done; wait",
    "f() { trap 'setsid sleep MARK & setsid sleep MARK & wait' TERM; sleep MARK & wait; }; f",
];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outlives_its_deadline() {
    let ground = Ground::new();
    let _daemon = ground.daemon("w", &[]).await;
    let ground = &ground;
    let all = ESCAPES.iter().enumerate().map(|(number, command)| async move {
        let mark = format!("7{:05}.{number:02}", std::process::id() % 100_000);
        let begun = Instant::now();
        let response = ground.exec("w", command.replace("MARK", &mark), 1).await;
        let Response::TimedOut { message, .. } = response else {
            panic!("{command}: {response:?}")
        };
        assert!(message.contains("timed out"), "{command}: {message}");
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{command}: {:?}",
            begun.elapsed()
        );
        assert_eq!(alive(&mark), Vec::<String>::new(), "{command}");
    });
    futures_util::future::join_all(all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_stops_takes_its_commands_along() {
    let ground = Ground::new();
    let mut daemon = ground.daemon("w", &[]).await;
    let mark = format!("81{:05}.1", std::process::id() % 100_000);
    let Response::Output { .. } = ground.exec("w", format!("setsid sleep {mark} & exit 0"), 5).await else {
        panic!()
    };
    let running = ground.exec("w", format!("setsid sleep {mark} & sleep {mark}"), 60);
    let stop = async {
        eventually("both run", async || {
            (alive(&format!("sleep {mark}")).len() >= 3).then_some(())
        })
        .await;
        let begun = Instant::now();
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().await, Some(0));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    };
    let (response, ()) = tokio::join!(running, stop);
    let Response::Failed { message } = response else {
        panic!("{response:?}")
    };
    assert!(
        message.contains("was lost") && message.contains("may have run"),
        "{message}"
    );
    assert_eq!(alive(&mark), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_takes_its_commands_along() {
    let ground = Ground::new();
    let daemon = ground.daemon("w", &[]).await;
    let mark = format!("82{:05}.1", std::process::id() % 100_000);
    let running = ground.exec("w", format!("trap '' TERM; setsid sleep {mark} & sleep {mark}"), 60);
    let kill = async {
        eventually("it runs", async || (!alive(&mark).is_empty()).then_some(())).await;
        daemon.signal(Signal::KILL);
    };
    tokio::join!(running, kill);
    eventually("nothing is left", async || alive(&mark).is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_helper_does_not_free_the_command() {
    let ground = Ground::new();
    let _daemon = ground.daemon("w", &[]).await;
    let mark = format!("83{:05}.1", std::process::id() % 100_000);
    let command = format!("setsid sleep {mark} & kill -9 $PPID; sleep {mark}");
    let response = ground.exec("w", command, 30).await;
    assert!(
        matches!(&response, Response::Failed { message } if message.contains("killed")),
        "{response:?}"
    );
    eventually("nothing is left", async || alive(&mark).is_empty().then_some(())).await;
    let Response::Output { output } = ground.exec("w", "echo on", 5).await else {
        panic!()
    };
    assert_eq!(output.stdout, "on\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_end_when_the_controller_stays_away() {
    let mut ground = Ground::new();
    let daemon = ground.start_daemon("w", &["--keep-after-loss", "1"]);
    ground.registered("w").await;
    let mark = format!("84{:05}.1", std::process::id() % 100_000);
    let running = ground.exec("w", format!("sleep {mark}"), 60);
    let waiting = eventually("it runs", async || (!alive(&mark).is_empty()).then_some(()));
    tokio::select! { _ = running => panic!(), () = waiting => {} }
    ground.controller.signal(Signal::KILL);
    ground.controller.ended().await;
    eventually("the command ends", async || alive(&mark).is_empty().then_some(())).await;
    assert!(daemon.log().contains("reconnecting"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_zombies_are_left() {
    let ground = Ground::new();
    let daemon = ground.daemon("w", &[]).await;
    for _ in 0..5 {
        ground
            .exec("w", "(true &) ; setsid true & sh -c 'sleep 0.01 &'; exit 0", 5)
            .await;
    }
    let children = format!("/proc/{0}/task/{0}/children", daemon.child.id());
    eventually("all helpers are reaped", async || {
        let own: Vec<String> = std::fs::read_dir(format!("/proc/{}/task", daemon.child.id()))
            .unwrap()
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok())
            .collect();
        own.concat().trim().is_empty().then_some(())
    })
    .await;
    assert!(std::path::Path::new(&children).exists());
}
