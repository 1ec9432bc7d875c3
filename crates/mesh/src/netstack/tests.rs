//! Tests of the stack over invented time and invented links.

mod datagrams;
mod hostile;
mod link;
mod memory;
mod paths;
mod streams;
mod transfer;
