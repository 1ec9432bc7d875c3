//! Byte examples, hostile bytes, and the stories of [`super::machine`] with invented time.

mod bytes;
mod http;
mod stories;
mod upnp;
