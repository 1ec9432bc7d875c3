//! `sandd up`: a bare mesh node, userspace or with a device for other programs.

use std::process::ExitCode;

use clap::Args;

use super::error::CliError;
use super::join::{Login, TunnelArgs};
use super::signals::StopSignals;
use super::state::Role;
use super::{output, runtime};
use crate::escape::Escaped;

/// Flags of `sandd up`.
#[derive(Debug, Args)]
pub(super) struct UpArgs {
    #[command(flatten)]
    tunnel: TunnelArgs,
}

impl UpArgs {
    /// Stays on the mesh until it is told to stop.
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        self.tunnel.check()?;
        let key = self.tunnel.key()?;
        runtime()?.block_on(async {
            let mut stop = StopSignals::new()?;
            let node = self.tunnel.start(Role::Node, None, key, Login::ByPerson).await?;
            tokio::select! {
                joined = node.joined() => joined?,
                () = stop.received() => {
                    node.shutdown().await;
                    return Ok(ExitCode::SUCCESS);
                }
            }
            let addresses: Vec<String> = node.mesh.addresses().iter().map(ToString::to_string).collect();
            let name = node.mesh.name().unwrap_or_default();
            output::print_line(&format!("node {} is up at {}", Escaped(&name), addresses.join(" ")));
            stop.received().await;
            node.shutdown().await;
            Ok(ExitCode::SUCCESS)
        })
    }
}
