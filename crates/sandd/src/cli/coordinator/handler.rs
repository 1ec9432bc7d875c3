//! Does what a person orders over the local API of a coordinator.

use std::time::{SystemTime, UNIX_EPOCH};

use sandd_coordinator::{Coordinator, KeyId, KeyOptions, NodeId};
use serde_json::json;

use crate::local::{CoordinatorOrder, Handler, HandlerFuture, Request, Response};

/// Answers at a coordinator's socket.
pub(in crate::cli) struct CoordinatorHandler(pub(in crate::cli) Coordinator);

impl Handler for CoordinatorHandler {
    fn handle(&self, request: Request) -> HandlerFuture<'_> {
        Box::pin(async move {
            let Request::Coordinator { order } = request else {
                return Response::failed("this is the socket of a coordinator, it knows keys and nodes only");
            };
            match self.obey(order).await {
                Ok(response) => response,
                Err(message) => Response::failed(message),
            }
        })
    }
}

impl CoordinatorHandler {
    async fn obey(&self, order: CoordinatorOrder) -> Result<Response, String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        match order {
            CoordinatorOrder::CreateKey {
                reusable,
                ephemeral,
                expiry,
                user,
                tags,
            } => {
                let options = KeyOptions {
                    reusable,
                    ephemeral,
                    expiry,
                    user,
                    tags,
                };
                self.0
                    .create_key(options)
                    .await
                    .map(|key| Response::of_value(&key))
                    .map_err(|error| text(&error))
            }
            CoordinatorOrder::Keys => Ok(self.keys()),
            CoordinatorOrder::RevokeKey { id } => self
                .0
                .revoke_key(KeyId(id))
                .await
                .map(|()| Response::of_value(&true))
                .map_err(|error| text(&error)),
            CoordinatorOrder::Nodes => Ok(self.nodes()),
            CoordinatorOrder::RemoveNode { id } => found(self.0.remove_node(NodeId(id)).await, id),
            CoordinatorOrder::ExpireNode { id } => found(self.0.expire_node(NodeId(id)).await, id),
            CoordinatorOrder::Logins => Ok(self.logins()),
            CoordinatorOrder::Approve { login, user } => {
                let approved = self.0.approve_login(&login, &user).await;
                approved
                    .map(|node| Response::of_value(&node.0))
                    .map_err(|error| text(&error))
            }
            CoordinatorOrder::Reject { login } => self
                .0
                .reject_login(&login)
                .map(|()| Response::of_value(&true))
                .map_err(|error| text(&error)),
        }
    }

    fn keys(&self) -> Response {
        let key = |key: &sandd_coordinator::KeyStatus| {
            json!({
                "id": key.id.0, "key": key.key, "reusable": key.reusable, "ephemeral": key.ephemeral,
                "user": key.user, "tags": key.tags, "created": unix(key.created), "expiry": key.expiry.map(unix),
                "used": key.used, "revoked": key.revoked,
            })
        };
        Response::of_value(&self.0.keys().iter().map(key).collect::<Vec<_>>())
    }

    fn nodes(&self) -> Response {
        let node = |node: &sandd_coordinator::NodeStatus| {
            json!({
                "id": node.id.0, "name": node.name, "hostname": node.hostname, "user": node.user, "tags": node.tags,
                "addresses": node.addresses, "node_key": node.node_key, "endpoints": node.endpoints,
                "online": node.online, "last_seen": node.last_seen.map(unix), "expiry": node.expiry.map(unix),
                "expired": node.expired, "ephemeral": node.ephemeral, "created": unix(node.created),
            })
        };
        Response::of_value(&self.0.nodes().iter().map(node).collect::<Vec<_>>())
    }

    fn logins(&self) -> Response {
        Response::of_value(&self.0.login_requests())
    }
}

fn found(outcome: Result<bool, sandd_coordinator::StoreError>, id: i64) -> Result<Response, String> {
    match outcome {
        Ok(true) => Ok(Response::of_value(&true)),
        Ok(false) => Err(format!("there is no node with number {id}")),
        Err(error) => Err(error.to_string()),
    }
}

/// Whole seconds since 1970.
fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
