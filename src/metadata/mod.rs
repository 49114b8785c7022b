//! The cluster as the controller last told this broker: an immutable image, replaced whole. Beside it the features that an
//! operator has finalized.
//!
//! Invariants: an image never changes once it is published; a reader takes no lock; images are published in the order
//! in which the controller's requests were accepted. Fencing by broker epoch and controller epoch is not done here but
//! by `replica/`, which owns the one controller epoch that all three control requests share.
//! Deliberately knows nothing of ZooKeeper, of hosted partitions and of who may see what.

pub mod cache;
pub mod features;
pub mod image;
pub mod update;
