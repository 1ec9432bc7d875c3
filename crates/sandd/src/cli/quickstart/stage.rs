//! The pieces of a quickstart: set up as fast as they can be, and taken down again.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use sandd_coordinator::{Coordinator, KeyOptions};
use sandd_mesh::{AuthKey, ControlUrl, Mesh};

use super::{Told, server_url};
use crate::cli::coordinator::explain;
use crate::cli::error::CliError;
use crate::controller::identity::{Bindings, MeshMode};
use crate::controller::members::MeshMembers;
use crate::controller::{Controller, ControllerConfig};
use crate::daemon::{Daemon, DaemonConfig};
use crate::transport::tunnel::{MeshDialer, MeshListener};
use crate::transport::{DirectDialer, Listener, Transport};
use crate::wire::ids::DaemonId;

/// The controller's name on the mesh.
pub(super) const CONTROLLER: &str = "controller";

/// The daemons.
pub(super) const WORKERS: [&str; 2] = ["worker-1", "worker-2"];

/// The controller's port on its mesh address.
const PORT: u16 = 8_765;

/// How long taking it down may take.
const STRIKE_WITHIN: Duration = Duration::from_secs(5);

/// Everything that runs.
pub(super) struct Stage {
    pub coordinator: Coordinator,
    pub controller_node: Mesh,
    pub controller: Controller,
    workers: Vec<(Daemon, Mesh)>,
}

impl Stage {
    /// Starts all of it; the nodes join at the same time.
    pub(super) async fn set(told: &Told) -> Result<Self, CliError> {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let coordinator = Coordinator::builder()
            .listen(loopback)
            .stun(loopback)
            .start()
            .await
            .map_err(explain)?;
        told.up(
            "coordinator",
            &format!("{}, with a relay and STUN inside", coordinator.url()),
        );
        let url = ControlUrl::parse(&coordinator.url())?;
        let options = KeyOptions {
            reusable: true,
            expiry: Some(Duration::from_secs(600)),
            ..KeyOptions::default()
        };
        let key = AuthKey::new(coordinator.create_key(options).await?);
        let (controller_node, first, second) = tokio::try_join!(
            join(CONTROLLER, &url, &key, told),
            join(WORKERS[0], &url, &key, told),
            join(WORKERS[1], &url, &key, told),
        )?;
        // The controller listens before anybody dials it: a refused first attempt would cost up to a second.
        let controller = control(&controller_node).await?;
        let workers = vec![(work(WORKERS[0], &first)?, first), (work(WORKERS[1], &second)?, second)];
        for worker in WORKERS {
            if !controller.wait_for_daemon(worker, super::PATIENCE).await {
                return Err(CliError::failed(format!("{worker} did not register within a minute")));
            }
        }
        told.up(
            "registered",
            &format!("{} at {}, through the mesh", WORKERS.join(" and "), server_url(PORT)),
        );
        Ok(Self {
            coordinator,
            controller_node,
            controller,
            workers,
        })
    }

    /// Ends all of it.
    pub(super) async fn strike(self) {
        let ending = async {
            let workers = self.workers.into_iter().map(|(daemon, mesh)| async move {
                daemon.shutdown().await;
                mesh.shutdown().await;
            });
            futures_util::future::join_all(workers).await;
            self.controller.shutdown().await;
            self.controller_node.shutdown().await;
            self.coordinator.shutdown().await;
        };
        let _ = tokio::time::timeout(STRIKE_WITHIN, ending).await;
    }
}

async fn join(name: &str, url: &ControlUrl, key: &AuthKey, told: &Told) -> Result<Mesh, CliError> {
    let mesh = Mesh::builder()
        .hostname(name)
        .port(0)
        .join(url.clone(), Some(key.clone()))
        .await?;
    let addresses: Vec<String> = mesh.addresses().iter().map(ToString::to_string).collect();
    told.up(
        name,
        &format!("{}  {}", addresses.join(" "), mesh.name().unwrap_or_default()),
    );
    Ok(mesh)
}

async fn control(mesh: &Mesh) -> Result<Controller, CliError> {
    let listener = Listener::Tunnel(MeshListener::bind(mesh.clone(), PORT).await?);
    let identity = Arc::new(MeshMode::new(MeshMembers(mesh.clone()), Bindings::default(), None));
    Ok(Controller::start(ControllerConfig { identity }, listener))
}

fn work(name: &str, mesh: &Mesh) -> Result<Daemon, CliError> {
    let transport = Transport::Tunnel(MeshDialer::new(mesh.clone(), DirectDialer::new(None)?));
    let id = DaemonId::from_flag(name)?;
    Ok(Daemon::start(DaemonConfig::new(
        server_url(PORT).parse()?,
        id,
        transport,
    )))
}
