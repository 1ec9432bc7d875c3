//! Our own coordinator as a process, in Headscale's place.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};

use super::{
    eventually,
    process::{Process, Run},
    sandd::sandd_binary,
    world::{Host, Lab, SERVER_ADDRESS, SERVER_NAME},
};

/// A running `sandd coordinator`, over TLS, with a certificate of the lab's authority.
#[derive(Debug)]
pub struct Coordinator<'lab> {
    host: &'lab Host,
    socket: PathBuf,
    process: Process,
}

impl<'lab> Coordinator<'lab> {
    /// Starts it on the lab's server and waits until it makes keys.
    pub fn start(lab: &'lab Lab) -> Result<Self> {
        Self::start_with(lab, &[])
    }

    /// The same with more arguments.
    pub fn start_with(lab: &'lab Lab, arguments: &[&str]) -> Result<Self> {
        let host = lab.server();
        let certificate = lab.ca().sign(&[SERVER_NAME, &SERVER_ADDRESS.to_string()])?;
        let socket = lab.directory().join("coordinator.sock");
        let mut command = host.command(sandd_binary());
        command
            .args(["coordinator", "--listen", &format!("{SERVER_ADDRESS}:443")])
            .arg("--state")
            .arg(lab.directory().join("coordinator.sqlite"))
            .arg("--socket")
            .arg(&socket)
            .arg("--tls-cert")
            .arg(certificate.certificate)
            .arg("--tls-key")
            .arg(certificate.key)
            .args(["--url", &format!("https://{SERVER_NAME}")])
            .args(arguments);
        let process = Process::start("coordinator", lab.directory(), &mut command)?;
        let mut coordinator = Self { host, socket, process };
        eventually("the coordinator's answer", Duration::from_secs(10), || {
            if !coordinator.process.is_running() {
                bail!("it ended:\n{}", coordinator.process.log());
            }
            coordinator.create_key(&[])
        })?;
        Ok(coordinator)
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// What nodes name as `--tunnel-server`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{SERVER_NAME}")
    }

    /// Makes a key; `arguments` are those of `sandd coordinator key create`.
    pub fn create_key(&self, arguments: &[&str]) -> Result<String> {
        let run = Run::of(&mut self.key_command(arguments))?;
        if !run.status.success() {
            bail!("sandd coordinator key create: {}{}", run.stdout, run.stderr);
        }
        let key = run.stdout.lines().last().context("no key was printed")?.trim();
        Ok(key.to_owned())
    }

    fn key_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command(sandd_binary());
        command
            .args(["coordinator", "key", "create", "--socket"])
            .arg(&self.socket)
            .args(arguments);
        command
    }
}
