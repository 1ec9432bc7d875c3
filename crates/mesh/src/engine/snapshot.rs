//! [`Snapshot`]: what the handles of a node read without asking its driver.

use std::net::IpAddr;
use std::sync::Arc;

use sandd_control_client::ControlError;
use sandd_control_client::keys::NodePublicKey;
use sandd_control_client::netmap::NetworkMap;

use crate::magic_dns::NameTable;

/// See the module's text.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    pub(crate) map: Arc<NetworkMap>,
    pub(crate) names: Arc<NameTable>,
    pub(crate) own_ips: Vec<IpAddr>,
    pub(crate) node_key: Option<NodePublicKey>,
    /// A map, cached or fresh, is in force.
    pub(crate) applied: bool,
    /// Why the coordinator will not have us.
    pub(crate) failed: Option<Arc<ControlError>>,
}
