//! TCP over the mesh: [`TcpStream`] and [`TcpListener`].

mod listener;
mod stream;

pub use listener::TcpListener;
pub use stream::TcpStream;
