//! Which topics a member of protocol type `consumer` subscribes to, read from the metadata that it joined with: an
//! i16 version, then the subscription. Version 0 is a prefix of every later one, so only that much is read.
//! Source: kafka 3.9 GroupMetadata.scala (computeSubscribedTopics).

use bytes::Bytes;

use crate::codec::reader::Reader;
use crate::protocol::message::Message;
use crate::protocol::messages::consumer_protocol_subscription::ConsumerProtocolSubscription;

/// `None` if the bytes are not a subscription.
pub(super) fn subscribed_topics(metadata: &Bytes) -> Option<Vec<String>> {
    let mut reader = Reader::new(metadata.clone());
    if reader.i16().ok()? < 0 {
        return None;
    }
    Some(ConsumerProtocolSubscription::decode(&mut reader, 0).ok()?.topics)
}
