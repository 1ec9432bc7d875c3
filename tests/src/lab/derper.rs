//! Tailscale's relay by itself, on the server's second address: one that can be killed while the coordinator lives.
//!
//! Not in a lab with IPv6, where the coordinator has the port on every address.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

use super::{
    eventually,
    headscale::peers_directory,
    process::Process,
    world::{Host, Lab, RELAY_NAME, SERVER_SECOND_ADDRESS},
};

/// Where it takes connections.
const PORT: u16 = 443;

/// A running `derper` with STUN beside it.
#[derive(Debug)]
pub struct Derper<'lab> {
    host: &'lab Host,
    process: Option<Process>,
}

impl<'lab> Derper<'lab> {
    /// Where its clients connect to.
    pub const ADDRESS: (std::net::Ipv4Addr, u16) = (SERVER_SECOND_ADDRESS, PORT);

    /// Starts it on the lab's server and waits until it takes connections.
    pub fn start(lab: &'lab Lab) -> Result<Self> {
        let directory = lab.directory().join("derper");
        fs::create_dir_all(&directory)?;
        let certificate = lab.ca().sign(&[RELAY_NAME])?;
        fs::copy(&certificate.certificate, directory.join(format!("{RELAY_NAME}.crt")))?;
        fs::copy(&certificate.key, directory.join(format!("{RELAY_NAME}.key")))?;
        let mut derper = Self {
            host: lab.server(),
            process: None,
        };
        derper.restart()?;
        Ok(derper)
    }

    /// Starts it, again after [`Self::kill`], and waits until it takes connections.
    pub fn restart(&mut self) -> Result<()> {
        let directory = self.host.directory().join("derper");
        let mut command = self.host.command(peers_directory().join("derper"));
        command
            .arg(format!("-a={SERVER_SECOND_ADDRESS}:{PORT}"))
            .args(["-http-port=-1", "-certmode=manual"])
            .arg(format!("-hostname={RELAY_NAME}"))
            .arg(format!("-certdir={}", directory.display()))
            .arg(format!("-c={}", directory.join("derper.json").display()));
        let process = Process::start("derper", self.host.directory(), &mut command)?;
        eventually("the relay's port", Duration::from_secs(10), || {
            self.host
                .namespace()
                .inside(|| std::net::TcpStream::connect(Self::ADDRESS))?
                .map(drop)
                .context("it is closed")
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills it: all its connections are reset.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.kill())
    }
}
