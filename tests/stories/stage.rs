//! What several stories begin with.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::lab::{
    Headscale, HeadscaleOptions, Host, Lab, Relays, Role, Run, Sandd, SanddOptions, Timings, eventually,
    probe::HashingSink, probe::send_hashed,
};

/// Headscale that passes everything on at once: stories are about what happens, figures about how long it takes.
pub(crate) const TUNED: HeadscaleOptions = HeadscaleOptions {
    timings: Timings::Tuned,
    plain_http: false,
    policy: None,
    relays: Relays::Embedded,
};

/// The daemon that stories command.
pub(crate) const WORKER: &str = "worker-1";

/// How long a path may take to become direct when the NATs let it.
pub(crate) const DIRECT: Duration = Duration::from_secs(10);

/// A controller on `a` and a daemon on `b` that dials it by its mesh name; returns when the daemon is registered.
pub(crate) fn controller_and_daemon<'lab>(
    headscale: &Headscale<'_>,
    a: &'lab Host,
    b: &'lab Host,
) -> Result<(Sandd<'lab>, Sandd<'lab>)> {
    controller_and_daemon_with(headscale, a, b, &[])
}

/// The same, both with these arguments.
pub(crate) fn controller_and_daemon_with<'lab>(
    headscale: &Headscale<'_>,
    a: &'lab Host,
    b: &'lab Host,
    arguments: &[&str],
) -> Result<(Sandd<'lab>, Sandd<'lab>)> {
    let key = headscale.reusable_key()?;
    let both = || SanddOptions::new(headscale.url(), Some(&key)).with_arguments(arguments);
    let controller = Sandd::join(a, Role::Controller, &both())?;
    let url = format!("ws://{}:8765/ws", a.name());
    let options = both().with_arguments(&["--server-url", &url, "--daemon-id", WORKER]);
    let daemon = Sandd::join(b, Role::Daemon, &options)?;
    wait_for_daemon(&controller, Duration::from_secs(20))?;
    Ok((controller, daemon))
}

/// Waits until the controller lists the daemon.
pub(crate) fn wait_for_daemon(controller: &Sandd<'_>, deadline: Duration) -> Result<()> {
    eventually("the daemon's registration", deadline, || {
        let run = Run::of(&mut controller.controller_cli("daemons", &["--json"]))?;
        run.stdout
            .contains(WORKER)
            .then_some(())
            .with_context(|| format!("listed: {}{}", run.stdout, run.stderr))
    })
}

/// Runs a command whose status, output and error output all matter.
pub(crate) fn exec_works(controller: &Sandd<'_>) -> Result<()> {
    let script = "echo out; echo err >&2; exit 7";
    let run = Run::of(&mut controller.controller_cli("exec", &[WORKER, "--", "sh", "-c", script]))?;
    ensure!(
        run.status.code() == Some(7) && run.stdout == "out\n" && run.stderr == "err\n",
        "status {}, stdout {:?}, stderr {:?}",
        run.status,
        run.stdout,
        run.stderr
    );
    Ok(())
}

/// Two bare nodes with kernel interfaces.
pub(crate) fn two_nodes<'lab>(
    headscale: &Headscale<'_>,
    a: &'lab Host,
    b: &'lab Host,
) -> Result<(Sandd<'lab>, Sandd<'lab>)> {
    let key = headscale.reusable_key()?;
    let options = SanddOptions::new(headscale.url(), Some(&key)).with_tun();
    Ok((
        Sandd::join(a, Role::Node, &options)?,
        Sandd::join(b, Role::Node, &options)?,
    ))
}

/// Sends `bytes` from one host to a mesh address on another and compares the digests.
pub(crate) fn stream_arrives(from: &Host, to: &Host, address: std::net::Ipv4Addr, bytes: u64) -> Result<()> {
    let sink = HashingSink::listen(to.namespace(), (address, 0).into())?;
    let sent = send_hashed(from.namespace(), sink.address(), bytes)?;
    let received = sink.finish()?;
    ensure!(
        sent.digest == received.digest && received.bytes == bytes,
        "{bytes} bytes from {} to {}: {sent:?} became {received:?}",
        from.name(),
        to.name()
    );
    Ok(())
}

/// A lab with Headscale as every story wants it.
pub(crate) fn headscale(lab: &Lab) -> Result<Headscale<'_>> {
    Headscale::start(lab, &TUNED)
}
