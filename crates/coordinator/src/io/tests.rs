//! On the wire, with a client made of the codecs alone: sockets, Noise, HTTP/2 and DERP as a node uses them.

mod client;
mod control;
mod hostile;
mod load;
mod patience;
mod relay;
