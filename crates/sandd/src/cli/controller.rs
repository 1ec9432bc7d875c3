//! `sandd controller`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use sandd_mesh::{AuthKey, Mesh};
use tracing::warn;

use super::embedded::{EmbeddedArgs, EmbeddedCoordinator};
use super::error::CliError;
use super::join::{Login, Node, TunnelArgs};
use super::signals::StopSignals;
use super::state::{self, Role};
use super::{output, runtime};
use crate::controller::identity::{Bindings, IdentityRule, MeshMode, OpenMode};
use crate::controller::members::{BindingFile, MeshMembers};
use crate::controller::{Controller, ControllerConfig};
use crate::escape::Escaped;
use crate::local::{Handler, HandlerFuture, LocalServer, Request, Response};
use crate::transport::direct::DirectListener;
use crate::transport::tunnel::MeshListener;
use crate::transport::{Listener, TlsFiles};

/// Name of a controller on the mesh when no other is given: what daemons dial.
const MESH_NAME: &str = "controller";

/// Flags of the controller.
#[derive(Debug, Args)]
pub(super) struct ControllerArgs {
    /// Address to listen on in direct mode, by default all; in tunnel mode it is the mesh address
    #[arg(long)]
    host: Option<String>,
    /// Port to listen on; 0 takes any free one
    #[arg(long, default_value_t = 8765)]
    port: u16,
    /// Certificate chain (PEM), so that daemons dial wss:// in direct mode
    #[arg(long, value_name = "FILE", requires = "tls_key", conflicts_with = "tunnel")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Socket for `sandd exec` and `sandd daemons`; by default controller.sock in the state directory
    #[arg(long, env = "SANDD_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Listen on the mesh and nowhere else; without --tunnel-server a coordinator runs inside
    #[arg(long)]
    tunnel: bool,
    #[command(flatten)]
    join: TunnelArgs,
    #[command(flatten)]
    embedded: EmbeddedArgs,
}

impl ControllerArgs {
    /// Runs the controller until it is told to stop.
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        let required = std::env::var_os("SANDD_REQUIRE_AUTH").is_some_and(|value| value == "1");
        if required && !self.tunnel {
            return Err(CliError::failed(
                "SANDD_REQUIRE_AUTH=1 forbids the open mode, in which daemons prove nothing; use --tunnel",
            ));
        }
        if self.socket.is_none() {
            state::ensure(&state::directory(self.join.state_dir(), Role::Controller)?)?;
        }
        runtime()?.block_on(async {
            let mut stop = StopSignals::new()?;
            if self.tunnel {
                self.run_tunnel(&mut stop).await
            } else {
                self.run_direct(&mut stop).await
            }
        })
    }

    async fn run_direct(self, stop: &mut StopSignals) -> Result<ExitCode, CliError> {
        let tls = self.tls_cert.clone().zip(self.tls_key.clone());
        let tls = tls.map(|(certificates, key)| TlsFiles { certificates, key });
        let host = self.host.as_deref().unwrap_or("0.0.0.0");
        let listener = DirectListener::bind(host, self.port, tls.as_ref()).await?;
        let scheme = if listener.is_tls() { "wss" } else { "ws" };
        let (controller, local) = self.serve(Arc::new(OpenMode), Listener::Direct(listener)).await?;
        output::print_line(&format!(
            "controller ready at {scheme}://{}/ws",
            controller.local_addr()
        ));
        stop.received().await;
        controller.shutdown().await;
        drop(local);
        Ok(ExitCode::SUCCESS)
    }

    async fn run_tunnel(mut self, stop: &mut StopSignals) -> Result<ExitCode, CliError> {
        if self.host.is_some() {
            warn!("--host is not used with --tunnel: the controller listens on the mesh address only");
        }
        let mut key = self.join.key()?;
        let embedded = if self.join.server().is_none() {
            let (embedded, own_key) = EmbeddedCoordinator::start(&self.embedded, &mut self.join).await?;
            key = own_key;
            Some(embedded)
        } else {
            None
        };
        let node = self
            .join
            .start(Role::Controller, Some(MESH_NAME), key, Login::ByKey)
            .await?;
        let served = tokio::select! {
            served = self.serve_mesh(&node) => served.map(Some),
            () = stop.received() => Ok(None),
        };
        let ended = match served {
            Ok(Some((controller, local))) => {
                self.announce(&node.mesh, &controller, embedded.as_ref()).await?;
                stop.received().await;
                controller.shutdown().await;
                drop(local);
                Ok(ExitCode::SUCCESS)
            }
            Ok(None) => Ok(ExitCode::SUCCESS),
            Err(error) => Err(error),
        };
        node.shutdown().await;
        if let Some(embedded) = embedded {
            embedded.shutdown().await;
        }
        ended
    }

    async fn serve_mesh(&self, node: &Node) -> Result<(Controller, LocalServer), CliError> {
        node.joined().await?;
        let members = MeshMembers(node.mesh.clone());
        let rule = if self.join.is_ephemeral() {
            MeshMode::new(members, Bindings::default(), None)
        } else {
            let path = state::directory(self.join.state_dir(), Role::Controller)?.join("bindings.json");
            let shown = path.display().to_string();
            let failed = |error| CliError::failed(format!("whose daemon ids are cannot be read from {shown}: {error}"));
            let (file, bindings) = BindingFile::open(path).map_err(failed)?;
            MeshMode::new(members, bindings, Some(Box::new(file)))
        };
        let listener = MeshListener::bind(node.mesh.clone(), self.port).await?;
        self.serve(Arc::new(rule), Listener::Tunnel(listener)).await
    }

    async fn serve(
        &self,
        identity: Arc<dyn IdentityRule>,
        listener: Listener,
    ) -> Result<(Controller, LocalServer), CliError> {
        let socket = state::controller_socket(self.socket.as_deref(), self.join.state_dir())?;
        let controller = Controller::start(ControllerConfig { identity }, listener);
        let local = LocalServer::start(&socket, Arc::new(ControllerHandler(controller.clone()))).await?;
        Ok((controller, local))
    }

    async fn announce(
        &self,
        mesh: &Mesh,
        controller: &Controller,
        embedded: Option<&EmbeddedCoordinator>,
    ) -> Result<(), CliError> {
        output::print_line(&format!("controller ready at ws://{}/ws", controller.local_addr()));
        let Some(embedded) = embedded else { return Ok(()) };
        let name = mesh.name().unwrap_or_default();
        let host = name
            .split('.')
            .next()
            .filter(|host| !host.is_empty())
            .unwrap_or(MESH_NAME);
        let server = format!("ws://{}:{}/ws", Escaped(host), controller.local_addr().port());
        output::print(&embedded.invitation(&server).await?);
        Ok(())
    }
}

/// A key for this process's own node, when it has not joined yet.
pub(super) type OwnKey = Option<AuthKey>;

/// Answers `sandd exec` and `sandd daemons`.
pub(super) struct ControllerHandler(pub(super) Controller);

impl Handler for ControllerHandler {
    fn handle(&self, request: Request) -> HandlerFuture<'_> {
        Box::pin(async move {
            match request {
                Request::Daemons { labels } => Response::Daemons {
                    daemons: self.0.daemons(&labels),
                },
                Request::Exec { daemon, command } => Response::of_exec(self.0.exec(&daemon, command).await),
                Request::Status
                | Request::Ping { .. }
                | Request::Netcheck
                | Request::Logout
                | Request::Coordinator { .. } => {
                    Response::failed("this is the socket of a controller, it knows daemons and commands only")
                }
            }
        })
    }
}
