//! Transactions: so far, what the records of `__transaction_state` look like.

pub(crate) mod records;
