//! Bounds-checked reading and writing of the wire's primitive types. No other code indexes raw wire bytes.
//! A declared length is checked against the bytes that are there before anything is reserved for it.
//! Knows nothing of messages, versions or headers.

pub mod reader;
pub mod text;
pub mod writer;
