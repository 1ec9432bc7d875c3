//! What a person types: bad input, help, and the quick start.

use std::{process::Command, time::Duration};

use anyhow::{Result, ensure};
use e2e::lab::{Run, sandd_binary, story};

/// Arguments that must fail, each with a word that the message must have.
const BAD: [(&[&str], &str); 9] = [
    (&[], "server-url"),
    (&["--server-url", "not a url"], "url"),
    (&["--server-url", "http://controller:8765/ws"], "ws"),
    (
        &[
            "--server-url",
            "ws://c:8765/ws",
            "--tunnel",
            "--tunnel-server",
            "ftp://x",
        ],
        "http",
    ),
    (&["--server-url", "ws://c:8765/ws", "--tunnel"], "tunnel-server"),
    (&["up", "--tunnel-server", "https://"], "tunnel-server"),
    (&["exec"], "DAEMON"),
    (&["exec", "--timeout", "soon", "worker", "--", "true"], "timeout"),
    (&["coordinator", "--listen", "everywhere"], "listen"),
];

#[test]
fn bad_input_gets_a_clear_line_and_no_backtrace() {
    // Needs no lab, only the program.
    if !sandd_binary().exists() {
        assert!(
            std::env::var_os("SANDD_E2E_REQUIRED").is_none(),
            "{} is missing",
            sandd_binary().display()
        );
        return;
    }
    for (arguments, word) in BAD {
        let run = Run::of(
            Command::new(sandd_binary())
                .args(arguments)
                .env_clear()
                .env("HOME", "/nonexistent"),
        )
        .unwrap();
        assert!(!run.status.success(), "{arguments:?} succeeded");
        assert!(run.stdout.is_empty(), "{arguments:?} wrote to stdout: {}", run.stdout);
        let said = run.stderr.to_lowercase();
        assert!(
            said.contains(&word.to_lowercase()),
            "{arguments:?} does not say {word}: {said}"
        );
        assert!(
            !said.contains("panicked") && !said.contains("backtrace"),
            "{arguments:?}: {said}"
        );
    }
}

#[test]
fn the_quick_start_runs_without_rights_and_cleans_up() {
    story(|lab| {
        let home = lab.directory().join("home");
        std::fs::create_dir(&home)?;
        std::os::unix::fs::chown(&home, Some(65534), Some(65534))?;
        let mut command = lab.server().command("setpriv");
        command
            .args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "--no-new-privs",
                "--inh-caps=-all",
            ])
            .arg(readable_copy(lab)?)
            .arg("quickstart")
            .env_remove("SSL_CERT_FILE")
            .env("HOME", &home)
            .env("TMPDIR", &home)
            .current_dir(&home);
        let run = Run::of(&mut command)?;
        ensure!(run.status.success(), "{}\n{}\n{}", run.status, run.stdout, run.stderr);
        ensure!(run.took < Duration::from_secs(60), "it took {:?}", run.took);
        let left: Vec<_> = std::fs::read_dir(&home)?.collect();
        ensure!(left.is_empty(), "it left {left:?}");
        Ok(())
    });
}

/// The program where anybody may run it: a build directory may lie below a closed home.
fn readable_copy(lab: &e2e::lab::Lab) -> Result<std::path::PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let copy = lab.directory().join("sandd");
    std::fs::copy(sandd_binary(), &copy)?;
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755))?;
    Ok(copy)
}
