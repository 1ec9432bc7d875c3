//! `sandd controller` (spec §6, §8.2).

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::error::CliError;
use super::signals::StopSignals;
use super::state::{self, Role};
use super::{output, runtime};
use crate::controller::identity::OpenMode;
use crate::controller::{Controller, ControllerConfig};
use crate::local::{Handler, HandlerFuture, LocalServer, Request, Response};
use crate::transport::direct::DirectListener;
use crate::transport::{Listener, TlsFiles};

/// Flags of the controller.
#[derive(Debug, Args)]
pub(super) struct ControllerArgs {
    /// Address to listen on in direct mode
    #[arg(long, default_value = "0.0.0.0")]
    host: String,
    /// Port to listen on; 0 takes any free one
    #[arg(long, default_value_t = 8765)]
    port: u16,
    /// Certificate chain (PEM), so that daemons dial wss://
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Socket for `sandd exec` and `sandd daemons`; by default controller.sock in the state directory
    #[arg(long, env = "SANDD_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Where the controller keeps its state
    #[arg(long, value_name = "DIR")]
    tunnel_state_dir: Option<PathBuf>,
}

impl ControllerArgs {
    /// Runs the controller until it is told to stop.
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        if std::env::var_os("SANDD_REQUIRE_AUTH").is_some_and(|value| value == "1") {
            return Err(CliError::failed(
                "SANDD_REQUIRE_AUTH=1 forbids the open mode, in which daemons prove nothing; use --tunnel",
            ));
        }
        let tls = self.tls_cert.clone().zip(self.tls_key.clone());
        let tls = tls.map(|(certificates, key)| TlsFiles { certificates, key });
        let socket = state::controller_socket(self.socket.as_deref(), self.tunnel_state_dir.as_deref())?;
        if self.socket.is_none() {
            state::ensure(&state::directory(self.tunnel_state_dir.as_deref(), Role::Controller)?)?;
        }
        runtime()?.block_on(async {
            let mut stop = StopSignals::new()?;
            let listener = DirectListener::bind(&self.host, self.port, tls.as_ref()).await?;
            let scheme = if listener.is_tls() { "wss" } else { "ws" };
            let config = ControllerConfig {
                identity: Arc::new(OpenMode),
            };
            let controller = Controller::start(config, Listener::Direct(listener));
            let local = LocalServer::start(&socket, Arc::new(ControllerHandler(controller.clone()))).await?;
            output::print_line(&format!(
                "controller ready at {scheme}://{}/ws",
                controller.local_addr()
            ));
            stop.received().await;
            controller.shutdown().await;
            drop(local);
            Ok(ExitCode::SUCCESS)
        })
    }
}

/// Answers `sandd exec` and `sandd daemons`.
struct ControllerHandler(Controller);

impl Handler for ControllerHandler {
    fn handle(&self, request: Request) -> HandlerFuture<'_> {
        Box::pin(async move {
            match request {
                Request::Daemons { labels } => Response::Daemons {
                    daemons: self.0.daemons(&labels),
                },
                Request::Exec { daemon, command } => Response::of_exec(self.0.exec(&daemon, command).await),
                Request::Status | Request::Ping { .. } | Request::Netcheck | Request::Logout => {
                    Response::failed("this is the socket of a controller, not of a mesh node")
                }
            }
        })
    }
}
