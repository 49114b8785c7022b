//! api.

pub mod fetch_session;
