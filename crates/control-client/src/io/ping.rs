//! Answers to [`PingRequest`]: by them Headscale learns whether a subnet router still lives.
//!
//! Only the path of the URL is used, and always at the coordinator that we know: it cannot make us ask elsewhere (S-22).

use std::collections::VecDeque;
use std::sync::Arc;

use http::Method;
use tokio::task::JoinSet;

use super::connect;
use super::session::Connection;
use crate::config::ControlConfig;
use crate::error::ControlError;
use crate::wire::PingRequest;

const REMEMBERED: usize = 32;
const MAX_RUNNING: usize = 4;

/// Answers under way, and which URLs were answered: each once.
#[derive(Debug, Default)]
pub(super) struct PingAnswers {
    answered: VecDeque<String>,
    running: JoinSet<()>,
}

impl PingAnswers {
    pub(super) fn handle(&mut self, request: &PingRequest, config: &Arc<ControlConfig>, connection: &Connection) {
        while self.running.try_join_next().is_some() {}
        let Some(path) = path_of(&request.url) else { return };
        if self.answered.contains(&request.url) || self.running.len() >= MAX_RUNNING {
            return;
        }
        if self.answered.len() == REMEMBERED {
            self.answered.pop_front();
        }
        self.answered.push_back(request.url.clone());
        let (config, connection) = (config.clone(), connection.clone());
        match request.types.as_str() {
            "" if request.url_is_noise => {
                self.spawn(async move { connection.send(Method::HEAD, &path, Vec::new()).await.map(drop) });
            }
            "" => self.spawn(async move { head(&config, &path).await }),
            "c2n" => {
                // Nothing of ours can be asked that way, and saying so spares the coordinator its timeout.
                let refusal = b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\n\r\n".to_vec();
                self.spawn(async move { connection.send(Method::POST, &path, refusal).await.map(drop) });
            }
            other => tracing::debug!(types = ?other, "coordinator asks for a kind of ping that is not supported"),
        }
    }

    fn spawn(&mut self, answer: impl Future<Output = Result<(), ControlError>> + Send + 'static) {
        self.running.spawn(async move {
            if let Err(error) = answer.await {
                tracing::debug!(%error, "coordinator's ping could not be answered");
            }
        });
    }
}

async fn head(config: &ControlConfig, path: &str) -> Result<(), ControlError> {
    let mut http = connect::dial(config).await?;
    let head = format!(
        "HEAD {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        config.url.authority()
    );
    http.request(&head, false).await?;
    Ok(())
}

/// Path and query of a URL, if they can stand in a request line.
fn path_of(url: &str) -> Option<String> {
    let url = url::Url::parse(url).ok()?;
    let path = url[url::Position::BeforePath..url::Position::AfterQuery].to_owned();
    let plain = path.starts_with('/') && path.len() <= 1024 && path.bytes().all(|byte| byte.is_ascii_graphic());
    plain.then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_path_of_a_ping_url_counts() {
        assert_eq!(
            path_of("http://hs:1/machine/ping-response?id=x").as_deref(),
            Some("/machine/ping-response?id=x")
        );
        assert_eq!(path_of("http://hs/a\r\nX: y").as_deref(), Some("/aX:%20y"));
        for bad in ["", "not a url", "mailto:x@y"] {
            assert_eq!(path_of(bad), None, "{bad}");
        }
    }
}
