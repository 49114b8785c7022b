//! Request and response headers. Source: kafka 3.9.1 clients/src/main/resources/common/message/{Request,Response}Header.json
//! and clients/src/main/java/org/apache/kafka/common/requests/RequestHeader.java.

use crate::codec::reader::{DecodeError, Reader};
use crate::codec::writer::Writer;
use crate::protocol::api_keys::ApiKey;
use crate::protocol::message::{EncodeError, Encoding, Wire, read_tagged};

/// What precedes every request body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    pub api_key: i16,
    pub api_version: i16,
    pub correlation_id: i32,
    /// Null and absent read as `None`.
    pub client_id: Option<String>,
}

/// ControlledShutdown version 0 is the one request whose header has no client id.
const CONTROLLED_SHUTDOWN: i16 = ApiKey::ControlledShutdown as i16;

impl RequestHeader {
    /// Reads the header; its own version follows from API key and version. An unknown key reads as not flexible,
    /// which suffices to refuse it.
    pub fn read(reader: &mut Reader) -> Result<RequestHeader, DecodeError> {
        let api_key = reader.i16()?;
        let api_version = reader.i16()?;
        let correlation_id = reader.i32()?;
        let mut header = RequestHeader { api_key, api_version, correlation_id, client_id: None };
        if api_key == CONTROLLED_SHUTDOWN && api_version == 0 {
            return Ok(header);
        }
        // The client id keeps its i16 length even in flexible headers.
        header.client_id = Option::<String>::read(reader, Encoding { version: api_version, flexible: false })?;
        if ApiKey::from_code(api_key).is_some_and(|key| api_version >= key.flexible_from()) {
            read_tagged(reader, |_, _| Ok(()))?;
        }
        Ok(header)
    }

    pub fn write(&self, writer: &mut Writer) -> Result<(), EncodeError> {
        writer.i16(self.api_key);
        writer.i16(self.api_version);
        writer.i32(self.correlation_id);
        if self.api_key == CONTROLLED_SHUTDOWN && self.api_version == 0 {
            return Ok(());
        }
        self.client_id.write(writer, Encoding { version: self.api_version, flexible: false })?;
        if ApiKey::from_code(self.api_key).is_some_and(|key| self.api_version >= key.flexible_from()) {
            writer.uvarint(0);
        }
        Ok(())
    }
}

/// Writes what precedes a response body: the correlation id, and an empty tagged section where the version is
/// flexible. ApiVersions stays without it, so that a client can read a refusal of its version.
pub fn write_response_header(writer: &mut Writer, key: ApiKey, api_version: i16, correlation_id: i32) {
    writer.i32(correlation_id);
    if has_flexible_response_header(key, api_version) {
        writer.uvarint(0);
    }
}

/// Reads the header of a response and gives its correlation id.
pub fn read_response_header(reader: &mut Reader, key: ApiKey, api_version: i16) -> Result<i32, DecodeError> {
    let correlation_id = reader.i32()?;
    if has_flexible_response_header(key, api_version) {
        read_tagged(reader, |_, _| Ok(()))?;
    }
    Ok(correlation_id)
}

fn has_flexible_response_header(key: ApiKey, api_version: i16) -> bool {
    key != ApiKey::ApiVersions && api_version >= key.flexible_from()
}
