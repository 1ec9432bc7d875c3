//! A program that is the controller itself: it waits for one daemon, runs a command there, then one on all daemons at
//! the same time.
//!
//! `cargo run -p sandd-examples --bin controller`, and in another terminal the command that it prints.

#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sandd::controller::identity::OpenMode;
use sandd::transport::Listener;
use sandd::transport::direct::DirectListener;
use sandd::{CommandRequest, Controller, ControllerConfig};

const PORT: u16 = 8765;
const WAIT: Duration = Duration::from_secs(300);

#[tokio::main]
async fn main() -> Result<()> {
    let daemon = std::env::args().nth(1).unwrap_or_else(|| "worker-1".to_owned());

    // Nobody proves anything in open mode, so this listens on loopback alone.
    let listener = Listener::Direct(DirectListener::bind("127.0.0.1", PORT, None).await?);
    let config = ControllerConfig {
        identity: Arc::new(OpenMode),
    };
    let controller = Controller::start(config, listener);
    let address = controller.local_addr();
    println!("waiting for a daemon: sandd daemon --server-url ws://{address}/ws --daemon-id {daemon}");
    ensure!(controller.wait_for_daemon(&daemon, WAIT).await, "{daemon} did not come");

    let request = CommandRequest {
        timeout: Duration::from_secs(10),
        env: BTreeMap::from([("NAME".to_owned(), "world".to_owned())]),
        ..CommandRequest::new("echo hello $NAME; echo and an error >&2; exit 3")
    };
    let output = controller
        .exec(&daemon, request)
        .await
        .context("the command has no result")?;
    println!("stdout     {:?}", output.stdout);
    println!("stderr     {:?}", output.stderr);
    println!("exit code  {} after {} ms", output.exit_code, output.duration_ms);

    let everyone = BTreeMap::new();
    for (id, result) in controller.broadcast(&everyone, &CommandRequest::new("uname -sm")).await {
        match result {
            Ok(output) => println!("{id:<10} {}", output.stdout.trim().escape_debug()),
            Err(error) => println!("{id:<10} {error}"),
        }
    }
    controller.shutdown().await;
    Ok(())
}
