//! Answers on a Unix socket.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use super::{Request, Response, read_frame, write_frame};

/// Questions that are answered at the same time.
const MAX_CLIENTS: usize = 1_024;

/// Time for a question to arrive.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest path that a socket address holds, on Linux and macOS alike.
const MAX_SOCKET_PATH: usize = 103;

/// An answer in the making.
pub type HandlerFuture<'a> = Pin<Box<dyn Future<Output = Response> + Send + 'a>>;

/// Who knows the answers.
pub trait Handler: Send + Sync + 'static {
    /// Answers one question; dropped when the asker goes away.
    fn handle(&self, request: Request) -> HandlerFuture<'_>;
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Somebody answers there already.
    #[error("another process answers at {} already, give this one a directory of its own with --tunnel-state-dir or --socket", .0.display())]
    InUse(PathBuf),
    /// Too long for the system.
    #[error("the path {} is too long for a socket, give a shorter one with --socket or --tunnel-state-dir", .0.display())]
    PathTooLong(PathBuf),
    /// A file is there that is no socket.
    #[error("{} exists and is no socket", .0.display())]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("cannot listen at {}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A socket that is answered until this is dropped.
#[derive(Debug)]
pub struct LocalServer {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

impl LocalServer {
    /// Starts answering at `path`, on the current runtime.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn start(path: &Path, handler: Arc<dyn Handler>) -> Result<Self, ServeError> {
        if path.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(ServeError::PathTooLong(path.to_path_buf()));
        }
        remove_stale(path).await?;
        let failed = |source| ServeError::Io {
            path: path.to_path_buf(),
            source,
        };
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let task = tokio::spawn(accept(listener, handler));
        Ok(Self {
            path: path.to_path_buf(),
            task,
        })
    }

    /// Where it answers.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Removes the socket of a process that is no more.
async fn remove_stale(path: &Path) -> Result<(), ServeError> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(ServeError::NotASocket(path.to_path_buf()));
    }
    if UnixStream::connect(path).await.is_ok() {
        return Err(ServeError::InUse(path.to_path_buf()));
    }
    std::fs::remove_file(path).map_err(|source| ServeError::Io {
        path: path.to_path_buf(),
        source,
    })
}

async fn accept(listener: UnixListener, handler: Arc<dyn Handler>) {
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let handler = Arc::clone(&handler);
                tokio::spawn(async move {
                    answer(stream, &*handler).await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "a local connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(mut stream: UnixStream, handler: &dyn Handler) {
    if !is_allowed(&stream) {
        warn!("a local connection of another user was refused");
        return;
    }
    let question = tokio::time::timeout(QUESTION_TIMEOUT, read_frame::<Request>(&mut stream)).await;
    let response = match question {
        Ok(Ok(request)) => {
            let mut byte = [0];
            tokio::select! {
                response = handler.handle(request) => response,
                // Whoever asked and went away does not wait for an answer any more.
                _ = stream.read(&mut byte) => return,
            }
        }
        Ok(Err(error)) => {
            debug!(%error, "a local question could not be read");
            Response::failed(format!("the question could not be read: {error}"))
        }
        Err(_) => return,
    };
    if let Err(error) = write_frame(&mut stream, &response).await {
        debug!(%error, "a local answer could not be written");
    }
}

/// The same user, or root.
fn is_allowed(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}
