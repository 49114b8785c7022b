//! The assembly: what a broker process consists of, and the order in which it starts and stops.

pub mod logging;
pub mod registration;
