//! [`RelayError`]: why a relay cannot be used, or not any longer.

use std::error::Error;
use std::io;

use sandd_control_client::dial::DialError;

use crate::derp::{FrameTooLong, LoginError, MalformedFrame};

use super::backoff::Ending;

#[derive(Debug, thiserror::Error)]
pub(super) enum RelayError {
    #[error("the region has no relay that can be dialled")]
    NoServer,
    #[error("cannot connect to the relay")]
    Dial(#[from] DialError),
    #[error("the relay did not answer within 10 seconds")]
    TimedOut,
    #[error("no websocket to the relay")]
    WebSocket(#[from] Box<tokio_tungstenite::tungstenite::Error>),
    #[error("connection to the relay broke")]
    Io(#[from] io::Error),
    #[error("the relay closed the connection")]
    Closed,
    #[error("the relay does not admit this node: it is not registered there, or not yet")]
    Refused,
    #[error("the relay sent nothing for {0} seconds")]
    Silent(u64),
    #[error("the relay speaks no proper derp")]
    TooLong(#[from] FrameTooLong),
    #[error("the relay speaks no proper derp")]
    Malformed(#[from] MalformedFrame),
    #[error("login at the relay failed")]
    Login(#[from] LoginError),
    #[error("the relay is restarting")]
    Restarting(std::time::Duration),
}

impl RelayError {
    pub(super) fn ending(&self) -> Ending {
        match self {
            Self::Refused | Self::Login(_) => Ending::Refused,
            Self::Restarting(pause) => Ending::Restarting(*pause),
            Self::NoServer
            | Self::Dial(_)
            | Self::TimedOut
            | Self::WebSocket(_)
            | Self::Io(_)
            | Self::Closed
            | Self::Silent(_)
            | Self::TooLong(_)
            | Self::Malformed(_) => Ending::Failed,
        }
    }

    /// The whole chain in one line.
    pub(super) fn describe(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            let part = error.to_string();
            // Some messages end with that of their source already.
            if !text.ends_with(&part) {
                text.push_str(": ");
                text.push_str(&part);
            }
            source = error.source();
        }
        text
    }
}
