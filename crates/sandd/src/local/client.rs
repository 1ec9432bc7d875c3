//! Asks a running controller or node.

use std::path::{Path, PathBuf};

use tokio::net::UnixStream;

use super::{Request, Response, read_frame, write_frame};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// Nobody listens there.
    #[error("nothing runs at {}", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The socket is somebody else's.
    #[error("{} belongs to another user", path.display())]
    Forbidden {
        /// The socket.
        path: PathBuf,
    },
    /// It was asked and did not answer.
    #[error("{} gave no answer: {source}", path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// One question, one answer.
///
/// # Errors
/// [`AskError`]; what the other side could not do is a [`Response::Failed`].
pub async fn ask(path: &Path, request: &Request) -> Result<Response, AskError> {
    use std::io::ErrorKind;

    let path_buf = || path.to_path_buf();
    let mut stream = UnixStream::connect(path).await.map_err(|source| {
        if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) {
            AskError::NotRunning { path: path_buf() }
        } else if source.kind() == ErrorKind::PermissionDenied {
            AskError::Forbidden { path: path_buf() }
        } else {
            AskError::NoAnswer {
                path: path_buf(),
                source,
            }
        }
    })?;
    let exchange = async {
        write_frame(&mut stream, request).await?;
        read_frame(&mut stream).await
    };
    exchange.await.map_err(|source| AskError::NoAnswer {
        path: path_buf(),
        source,
    })
}
