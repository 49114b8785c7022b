//! Odradek: a Kafka broker for clusters that keep their metadata in ZooKeeper.
//! The rooms, in reading order; a room uses only rooms above its own band (see ARCHITECTURE.md).
#![forbid(unsafe_code)]

// 1 words
pub mod codec;
pub mod model;
// 2 formats and tables
pub mod config;
pub mod protocol;
pub mod record;
// 3 engines
mod client;
pub mod log;
pub mod metadata;
// 4 roles
pub mod controller;
mod coordinator;
mod replica;
// 5 doors
mod api;
pub mod cli;
mod network;
// 6 assembly
pub mod broker;
// all of them in one process, for tests
#[cfg(test)]
mod simulation;
