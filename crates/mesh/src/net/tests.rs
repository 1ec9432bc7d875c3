//! Tests of the sockets over two stacks in one process.
